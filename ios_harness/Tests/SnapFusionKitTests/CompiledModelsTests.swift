import SnapFusionKit
import XCTest

final class CompiledModelsTests: XCTestCase {
    /// The sample bundle as an app holds it: the UNet compiled, its package gone.
    private func embedded(_ folder: URL, list: (String, String) -> String) throws -> URL {
        let files = FileManager.default
        let root = folder.appendingPathComponent("ModelBundle")
        try files.copyItem(at: GoldenFiles.sampleBundle(), to: root)
        let manifest = try ModelBundle(opening: root).manifestSHA256
        let package = root.appendingPathComponent("UNet.mlpackage")
        let compiled = root.appendingPathComponent("UNet.mlmodelc")
        try files.createDirectory(at: compiled, withIntermediateDirectories: true)
        try Data("compiled".utf8).write(to: compiled.appendingPathComponent("model.mil"))
        try files.removeItem(at: package)
        let digest = try SHA256Digest.file(at: compiled.appendingPathComponent("model.mil"))
        try Data(list(manifest, digest).utf8).write(to: root.appendingPathComponent("compiled.sha256"))
        return root
    }

    func testACompiledPackageStandsInForTheOneThatIsGone() throws {
        let root = try embedded(temporaryFolder()) { "# manifest \($0)\n\($1)  UNet.mlmodelc/model.mil\n" }
        let bundle = try ModelBundle(opening: root)
        XCTAssertEqual(bundle.compiled.path(of: "UNet.mlpackage"), "UNet.mlmodelc")
        XCTAssertNil(bundle.compiled.path(of: "Decoder.mlpackage"))
        try Data("Compiled".utf8).write(to: root.appendingPathComponent("UNet.mlmodelc/model.mil"))
        XCTAssertThrowsError(try ModelBundle(opening: root)) {
            XCTAssertEqual(($0 as? BundleError)?.reason, .wrongChecksum)
        }
        try FileManager.default.removeItem(at: root.appendingPathComponent("UNet.mlmodelc/model.mil"))
        XCTAssertThrowsError(try ModelBundle(opening: root, check: .sizes)) {
            XCTAssertEqual(($0 as? BundleError)?.reason, .missingFile)
        }
    }

    func testAListOfAnotherManifestIsRefused() throws {
        let root = try embedded(temporaryFolder()) { _, digest in
            "# manifest \(String(repeating: "0", count: 64))\n\(digest)  UNet.mlmodelc/model.mil\n"
        }
        XCTAssertThrowsError(try ModelBundle(opening: root)) {
            XCTAssertEqual(($0 as? BundleError)?.reason, .wrongChecksum)
        }
    }

    func testALineThatLeavesTheBundleIsRefused() throws {
        let root = try embedded(temporaryFolder()) { "# manifest \($0)\n\($1)  ../UNet.mlmodelc/model.mil\n" }
        XCTAssertThrowsError(try ModelBundle(opening: root)) {
            XCTAssertEqual(($0 as? BundleError)?.reason, .invalidManifest)
        }
    }

    func testTheCacheKeepsWhatIsUsedAndLetsGoOfWhatIsStale() throws {
        let folder = try temporaryFolder()
        let bundle = try ModelBundle(opening: GoldenFiles.sampleBundle())
        let part = try XCTUnwrap(bundle.component(.unet).parts.first)
        let old = CompiledCache(folder: folder.appendingPathComponent("cache"), system: "Version 17.6 (Build 21G80)")
        let now = CompiledCache(folder: old.folder, system: "Version 18.1 (Build 22B83)")
        func make(_ cache: CompiledCache) throws -> URL {
            let made = folder.appendingPathComponent(UUID().uuidString)
            try FileManager.default.createDirectory(at: made, withIntermediateDirectories: true)
            let place = try cache.place(of: .unet, part, in: bundle)
            XCTAssertFalse(cache.finds(place))
            try cache.keep(made, at: place)
            XCTAssertTrue(cache.finds(place))
            // A second run that was slower finds its place taken, and that is fine.
            try FileManager.default.createDirectory(at: made, withIntermediateDirectories: true)
            try cache.keep(made, at: place)
            XCTAssertFalse(FileManager.default.fileExists(atPath: made.path))
            return place
        }
        let (before, place) = (try make(old), try make(now))
        XCTAssertNotEqual(before, place, "a system's compiled models are no other's")
        XCTAssertEqual(now.evict().count, 1)
        XCTAssertFalse(FileManager.default.fileExists(atPath: before.path))
        XCTAssertTrue(now.finds(place))
        XCTAssertEqual(now.evict(now: Date(timeIntervalSinceNow: CompiledCache.lifetime - 60)), [])
        XCTAssertEqual(
            now.evict(now: Date(timeIntervalSinceNow: CompiledCache.lifetime + 60)), [place.lastPathComponent])
        XCTAssertFalse(now.finds(place))
    }
}
