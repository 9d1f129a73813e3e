import Foundation
import SnapFusionKit
import XCTest

/// The sample bundle as a server gives it, with faults on request.
private actor FaultySource: BundleSource {
    struct Gone: Error {}

    private(set) var requests: [String] = []
    private let root: URL
    /// Path to how many transfers of it break off half-way.
    private var breaks: [String: Int]
    /// Paths whose bytes come out wrong that many times.
    private var corrupt: [String: Int]
    private let ranges: Bool

    init(_ root: URL, breaks: [String: Int] = [:], corrupt: [String: Int] = [:], ranges: Bool = true) {
        self.root = root
        self.breaks = breaks
        self.corrupt = corrupt
        self.ranges = ranges
    }

    func fetch(_ path: String, from offset: Int, into sink: any DownloadSink) async throws {
        requests.append("\(path) \(offset)")
        var bytes = try Data(contentsOf: root.appendingPathComponent(path))
        if let left = corrupt[path], left > 0 {
            corrupt[path] = left - 1
            bytes[bytes.count - 1] ^= 1
        }
        let start = ranges ? offset : 0
        try sink.begin(at: start)
        let rest = bytes.dropFirst(start)
        if let left = breaks[path], left > 0 {
            breaks[path] = left - 1
            try sink.write(rest.prefix(rest.count / 2))
            throw Gone()
        }
        try sink.write(rest.prefix(7))
        try sink.write(rest.dropFirst(7))
    }
}

final class BundleDownloaderTests: XCTestCase {
    private let weights = "UNet.mlpackage/Data/com.apple.CoreML/weights/weight.bin"

    private func downloader(_ source: FaultySource) -> BundleDownloader {
        var downloader = BundleDownloader(source: source)
        downloader.pause = 0
        return downloader
    }

    func testABundleComesWholeAndIsFetchedOnce() async throws {
        let destination = try temporaryFolder().appendingPathComponent("bundle")
        let source = FaultySource(try GoldenFiles.sampleBundle())
        let last = LastProgress()
        let bundle = try await downloader(source).download(to: destination) { last.set($0) }
        XCTAssertEqual(try ModelBundle(opening: destination).manifest, bundle.manifest)
        XCTAssertEqual(last.value?.bytes, last.value?.total)
        let count = await source.requests.count
        XCTAssertEqual(count, bundle.manifest.files.count + 1)
        _ = try await downloader(source).download(to: destination)
        let after = await source.requests.count
        XCTAssertEqual(after, count, "what is there isn't fetched again")
    }

    func testATransferThatBreaksOffGoesOnWhereItWas() async throws {
        let destination = try temporaryFolder().appendingPathComponent("bundle")
        let source = FaultySource(try GoldenFiles.sampleBundle(), breaks: [weights: 3])
        let bundle = try await downloader(source).download(to: destination)
        let bytes = try XCTUnwrap(bundle.manifest.files[weights]).bytes
        let offsets = await source.requests.filter { $0.hasPrefix(weights) }.compactMap {
            Int($0.split(separator: " ")[1])
        }
        let first = bytes / 2
        let second = first + (bytes - first) / 2
        XCTAssertEqual(offsets, [0, first, second, second + (bytes - second) / 2])
        XCTAssertNoThrow(try ModelBundle(opening: destination))
    }

    func testAServerWithoutRangesBeginsAnew() async throws {
        let destination = try temporaryFolder().appendingPathComponent("bundle")
        let source = FaultySource(try GoldenFiles.sampleBundle(), breaks: [weights: 2], ranges: false)
        _ = try await downloader(source).download(to: destination)
        XCTAssertNoThrow(try ModelBundle(opening: destination))
    }

    func testTheNextAttemptOfAnotherProcessGoesOnToo() async throws {
        let destination = try temporaryFolder().appendingPathComponent("bundle")
        let broken = FaultySource(try GoldenFiles.sampleBundle(), breaks: [weights: 1])
        var impatient = downloader(broken)
        impatient.attempts = 1
        do {
            _ = try await impatient.download(to: destination)
            XCTFail("nothing was thrown")
        } catch {
            guard case DownloadError.brokeOff(weights, 1, _) = error else { return XCTFail("\(error)") }
        }
        XCTAssertFalse(FileManager.default.fileExists(atPath: destination.path), "whole or not at all")
        let source = FaultySource(try GoldenFiles.sampleBundle())
        _ = try await downloader(source).download(to: destination)
        let requests = await source.requests
        XCTAssertFalse(requests.contains("\(weights) 0"))
        XCTAssertTrue(requests.contains { $0.hasPrefix(weights) })
        XCTAssertNoThrow(try ModelBundle(opening: destination))
    }

    func testAFileThatComesOutWrongIsFetchedAgainOnce() async throws {
        let destination = try temporaryFolder().appendingPathComponent("bundle")
        let source = FaultySource(try GoldenFiles.sampleBundle(), corrupt: [weights: 1])
        _ = try await downloader(source).download(to: destination)
        XCTAssertNoThrow(try ModelBundle(opening: destination))
        let damaged = FaultySource(try GoldenFiles.sampleBundle(), corrupt: [weights: 9])
        let other = try temporaryFolder().appendingPathComponent("bundle")
        do {
            _ = try await downloader(damaged).download(to: other)
            XCTFail("nothing was thrown")
        } catch {
            guard case DownloadError.corrupt(weights, _, _) = error else { return XCTFail("\(error)") }
        }
        XCTAssertFalse(FileManager.default.fileExists(atPath: other.path))
    }

    func testAManifestOtherThanTheOneAskedForIsRefused() async throws {
        let destination = try temporaryFolder().appendingPathComponent("bundle")
        var asking = try downloader(FaultySource( GoldenFiles.sampleBundle()))
        asking.manifestSHA256 = String(repeating: "0", count: 64)
        do {
            _ = try await asking.download(to: destination)
            XCTFail("nothing was thrown")
        } catch {
            guard case DownloadError.corrupt("manifest.json", _, _) = error else { return XCTFail("\(error)") }
        }
    }
}

private final class LastProgress: @unchecked Sendable {
    private let lock = NSLock()
    private var last: BundleDownloader.Progress?

    func set(_ progress: BundleDownloader.Progress) { lock.withLock { last = progress } }
    var value: BundleDownloader.Progress? { lock.withLock { last } }
}
