import Foundation
import SnapFusionKit
import XCTest

/// The files that Python's tests and these read: in the repository, or copied into the test bundle on a device.
enum GoldenFiles {
    private final class Marker {}

    /// `tests/golden/NAME`
    static func golden(_ name: String) throws -> URL { try find("golden", name) }

    /// `tests/bundle/sample`, a bundle whose packages hold no programs
    static func sampleBundle() throws -> URL { try find("bundle", "sample") }

    /// `tests/bundle/version_1.json`: the sample's manifest as it was in schema version 1
    static func versionOneManifest() throws -> URL { try find("bundle", "version_1.json") }

    /// `tests/bundle/broken.json`
    static func brokenCases() throws -> URL { try find("bundle", "broken.json") }

    /// `models/glyph/tokenizer/NAME`
    static func tokenizer(_ name: String) throws -> URL {
        let copied = Bundle(for: Marker.self).resourceURL?.appendingPathComponent("tokenizer/\(name)")
        return try existing(copied, repository.appendingPathComponent("models/glyph/tokenizer/\(name)"))
    }

    static func array(_ name: String) throws -> NumpyArray { try NumpyArray(contentsOf: golden(name)) }

    static func floats(_ name: String) throws -> [Float] { try array(name).tensor().floats }

    static func json<Value: Decodable>(_ name: String, as type: Value.Type) throws -> Value {
        try JSONDecoder().decode(type, from: Data(contentsOf: golden(name)))
    }

    private static let repository = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    private static func find(_ folder: String, _ name: String) throws -> URL {
        let copied = Bundle(for: Marker.self).resourceURL?.appendingPathComponent("\(folder)/\(name)")
        return try existing(copied, repository.appendingPathComponent("tests/\(folder)/\(name)"))
    }

    private static func existing(_ candidates: URL?...) throws -> URL {
        let found = candidates.compactMap { $0 }.first { FileManager.default.fileExists(atPath: $0.path) }
        return try XCTUnwrap(found, "none of \(candidates.compactMap { $0?.path }) exists")
    }
}

/// The largest absolute difference; infinite if the counts differ or a value isn't finite.
func maxDifference(_ first: [Float], _ second: [Float]) -> Float {
    guard first.count == second.count else { return .infinity }
    return zip(first, second).reduce(0) { largest, pair in
        let difference = abs(pair.0 - pair.1)
        return difference.isFinite ? max(largest, difference) : .infinity
    }
}

/// An empty folder that is removed when the test ends.
extension XCTestCase {
    func temporaryFolder() throws -> URL {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("sfbench-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        addTeardownBlock { try? FileManager.default.removeItem(at: folder) }
        return folder
    }

    /// Asserts that `body` throws exactly `expected`.
    func assertThrows<Failure: Error & Equatable, Value>(
        _ expected: Failure, file: StaticString = #filePath, line: UInt = #line, _ body: () throws -> Value
    ) {
        XCTAssertThrowsError(try body(), file: file, line: line) {
            XCTAssertEqual($0 as? Failure, expected, file: file, line: line)
        }
    }

    /// Asserts that `body` throws exactly `expected`.
    func assertThrows<Failure: Error & Equatable>(
        _ expected: Failure, file: StaticString = #filePath, line: UInt = #line, _ body: () async throws -> Void
    ) async {
        do {
            try await body()
            XCTFail("nothing was thrown", file: file, line: line)
        } catch {
            XCTAssertEqual(error as? Failure, expected, "\(error)", file: file, line: line)
        }
    }
}
