import SnapFusionKit
import XCTest

final class ChunkSequenceTests: XCTestCase {
    func testChunksRunInOrderAndHandOnTheVeryArraysByName() throws {
        let log = Log()
        let sequence = try sequence(log)
        let latents = Box(5)
        let outputs = try sequence.run(["latents": latents])
        XCTAssertEqual(log.events, ["open c1", "open c2", "open c3", "run c1", "run c2", "run c3"])
        XCTAssertEqual(outputs.mapValues(\.value), ["image": (6 + 6 + 1) + 6 + 1])
        XCTAssertTrue(log.taken["c1"]?["latents"] === latents)
        XCTAssertTrue(log.taken["c2"]?["skip"] === log.given["c1"]?["skip"])
        XCTAssertTrue(log.taken["c3"]?["skip"] === log.given["c1"]?["skip"])
        XCTAssertTrue(log.taken["c3"]?["hidden"] === log.given["c2"]?["hidden"])
        XCTAssertTrue(outputs["image"] === log.given["c3"]?["image"])
    }

    func testArraysAreLetGoOfBehindTheirLastUse() throws {
        let log = Log(keepsArrays: false)
        _ = try sequence(log).run(["latents": Box(5)])
        XCTAssertEqual(log.alive["c3"], ["hidden", "latents", "skip"], "the second chunk was the last to take 'early'")
    }

    func testOneChunkAtATimeIsInMemory() throws {
        let log = Log()
        let sequence = try sequence(log, residency: .one)
        XCTAssertEqual(sequence.loadedCount, 0)
        XCTAssertEqual(try sequence.run(["latents": Box(5)])["image"]?.value, 20)
        XCTAssertEqual(
            log.events,
            ["open c1", "open c2", "open c3", "open c1", "run c1", "open c2", "run c2", "open c3", "run c3"])
        XCTAssertEqual(log.mostOpen, 1)
        XCTAssertEqual(log.open, 0)
    }

    func testAllChunksStayUntilTheSequenceIsGone() throws {
        let log = Log()
        var held: ChunkSequence<FakeChunk>? = try sequence(log)
        XCTAssertEqual(held?.loadedCount, 3)
        _ = try held?.run(["latents": Box(1)])
        XCTAssertEqual(log.open, 3)
        held = nil
        XCTAssertEqual(log.open, 0)
    }

    func testAComponentOfOnePackageIsNeverLoadedTwice() throws {
        let log = Log()
        let record = try TestBundle.make(in: temporaryFolder()).component(.decoder)
        let sequence = try ChunkSequence(.decoder, record: record, residency: .one) { FakeChunk($0, log) }
        XCTAssertEqual(try sequence.run(["latents": Box(2)])["image"]?.value, 3)
        XCTAssertEqual(log.events, ["open decoder.mlpackage", "run decoder.mlpackage"])
    }

    func testAChunkThatCannotBeLoadedFreesThoseBeforeIt() throws {
        let log = Log(broken: "c2")
        XCTAssertThrowsError(try sequence(log)) { XCTAssertEqual($0 as? UsageError, UsageError("c2")) }
        XCTAssertEqual(log.events, ["open c1"])
        XCTAssertEqual(log.open, 0)
    }

    func testAChunkThatGivesNothingIsNamed() throws {
        XCTAssertThrowsError(try sequence(Log(silent: "c2")).run(["latents": Box(1)])) {
            XCTAssertTrue("\($0)".contains("output 'hidden'") && "\($0)".contains("c2"), "\($0)")
        }
    }

    func testFilesBelongToTheirChunk() throws {
        let record = try record()
        XCTAssertEqual(record.parts, record.chunks)
        XCTAssertEqual(record.parts.map { record.files(of: $0).keys.sorted() }, [
            ["decoder.mlpackage/c1/model"], ["decoder.mlpackage/c2/model"], ["decoder.mlpackage/c3/model"],
        ])
    }

    private func record() throws -> ComponentRecord {
        func tensor(_ name: String, _ shape: String) -> String {
            #"{"name": "\#(name)", "shape": \#(shape), "dtype": "float16"}"#
        }
        func chunk(_ number: Int, _ inputs: [String], _ outputs: [String]) -> String {
            """
            {"package": "decoder.mlpackage/c\(number)", "inputs": [\(inputs.joined(separator: ","))],
             "outputs": [\(outputs.joined(separator: ","))], "bytes": 1}
            """
        }
        let (latents, image) = (tensor("latents", "[1, 4, 4, 4]"), tensor("image", "[1, 3, 8, 8]"))
        let (skip, early, hidden) = (tensor("skip", "[1, 2]"), tensor("early", "[1]"), tensor("hidden", "[3]"))
        let chunks = [
            chunk(1, [latents], [skip, early]), chunk(2, [skip, early], [hidden]), chunk(3, [hidden, skip], [image]),
        ]
        let sha = String(repeating: "0", count: 64)
        let files = (1...3).map {
            #""decoder.mlpackage/c\#($0)/model": {"bytes": 1, "sha256": "\#(sha)"}"#
        }
        let bundle = try TestBundle.make(in: temporaryFolder()) { text in
            text.replacingOccurrences(
                of: #""files": {"decoder.mlpackage/model": {"bytes": 1, "sha256": "\#(sha)"}}"#,
                with: "\"chunks\": [\(chunks.joined(separator: ","))], \"files\": {\(files.joined(separator: ","))}")
        }
        return try bundle.component(.decoder)
    }

    private func sequence(_ log: Log, residency: ChunkResidency = .all) throws -> ChunkSequence<FakeChunk> {
        try ChunkSequence(.decoder, record: record(), residency: residency) {
            if $0.package.hasSuffix(log.broken) { throw UsageError(log.broken) }
            return FakeChunk($0, log)
        }
    }
}

/// An array of one number, by reference.
private final class Box {
    let value: Int
    init(_ value: Int) { self.value = value }
}

/// What chunks were asked, and what is alive when they are.
private final class Log {
    let broken: String
    let silent: String
    let keepsArrays: Bool
    var events: [String] = []
    var taken: [String: [String: Box]] = [:]
    var given: [String: [String: Box]] = [:]
    var alive: [String: [String]] = [:]
    var mostOpen = 0
    var open = 0 { didSet { mostOpen = max(mostOpen, open) } }
    private var seen: [(name: String, box: Weak)] = []

    private struct Weak { weak var box: Box? }

    init(broken: String = "none", silent: String = "none", keepsArrays: Bool = true) {
        self.broken = broken
        self.silent = silent
        self.keepsArrays = keepsArrays
    }

    func run(_ name: String, _ inputs: [String: Box], _ outputs: [String: Box]) {
        events.append("run \(name)")
        for (key, box) in inputs where !seen.contains(where: { $0.box.box === box }) { seen.append((key, Weak(box: box))) }
        alive[name] = seen.filter { $0.box.box != nil }.map(\.name).sorted()
        if keepsArrays { (taken[name], given[name]) = (inputs, outputs) }
    }
}

/// Every output is the sum of the inputs and one.
private final class FakeChunk: LoadedChunk {
    private let part: ChunkRecord
    private let log: Log
    private var name: String { part.package.split(separator: "/").last.map(String.init) ?? "" }

    init(_ part: ChunkRecord, _ log: Log) {
        self.part = part
        self.log = log
        log.open += 1
        log.events.append("open \(name)")
    }

    deinit { log.open -= 1 }

    func predict(_ inputs: [String: Box]) throws -> [String: Box] {
        XCTAssertEqual(Set(inputs.keys), Set(part.inputs.map(\.name)))
        var outputs: [String: Box] = [:]
        if name != log.silent {
            for tensor in part.outputs { outputs[tensor.name] = Box(inputs.values.reduce(1) { $0 + $1.value }) }
        }
        log.run(name, inputs, outputs)
        return outputs
    }
}
