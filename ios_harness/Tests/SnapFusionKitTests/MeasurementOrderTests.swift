import SnapFusionKit
import XCTest

/// What was asked of the device and of the engine, in order.
private actor Log {
    private(set) var lines: [String] = []
    func add(_ line: String) { lines.append(line) }
}

/// Tells the log what is predicted, and fails where it is told to.
private struct LoggingRunner: ComponentRunner {
    struct Broken: Error {}

    let inner = RecordingRunner()
    let log: Log
    let word: String
    var broken: ComponentName?

    func describe() async throws -> RuntimeRecord { try await inner.describe() }
    func load(_ name: ComponentName) async throws -> LoadTiming {
        if name == broken { throw Broken() }
        return try await inner.load(name)
    }
    func predict(_ name: ComponentName, inputs: [String: HostTensor]) async throws -> ComponentPrediction {
        await log.add("\(word) \(name)")
        return try await inner.predict(name, inputs: inputs)
    }
    func unload(_ name: ComponentName) async { await inner.unload(name) }
    func unloadAll() async { await inner.unloadAll() }
    func memory() async -> MemorySample? { await inner.memory() }
}

final class MeasurementOrderTests: XCTestCase {
    private let machine = MachineRecord(
        model: "iPhone15,2", processor: "none", architecture: "arm64", cores: 6, memoryBytes: 6 << 30, os: "iOS 18.1")

    private func conditions(_ state: ConditionsRecord.ThermalState = .nominal) -> ConditionsRecord {
        var conditions = ConditionsRecord()
        conditions.thermalStateBefore = state
        conditions.thermalStateAfter = state
        return conditions
    }

    private func recorder(
        _ bundle: ModelBundle, _ log: Log, broken: ComponentName? = nil
    ) throws -> LatencyRecorder {
        try LatencyRecorder(
            bundle: bundle,
            options: .init(predictions: 1, request: .init(prompt: "a", steps: 1), control: [.unet])
        ) { LoggingRunner(log: log, word: "time", broken: broken) }
    }

    private func device(_ log: Log) -> LatencyRecorder.Device {
        let conditions = conditions()
        return LatencyRecorder.Device(
            conditions: { conditions },
            placement: { name in
                await log.add("place \(name)")
                var record = PlacementRecord()
                record.operations = 3
                record.neuralEngineCost = 0.75
                record.cpuCost = 0.25
                return record
            }, makeControl: { LoggingRunner(log: log, word: "control") })
    }

    func testWhatIsTimedComesBeforeTheControlAndPlacementLast() async throws {
        let log = Log()
        let bundle = try TestBundle.make(in: temporaryFolder())
        let report = try await recorder(bundle, log).report(machine: machine, device: device(log))
        let kinds = await log.lines.map { $0.prefix { $0 != " " } }
        let order = kinds.reduce(into: [Substring]()) { if $0.last != $1 { $0.append($1) } }
        XCTAssertEqual(order, ["time", "control", "place"])
        XCTAssertEqual(report.components[.unet]?.cpuOnlyMedian, 1)
        XCTAssertEqual(report.components[.unet]?.placement?.neuralEngineCostShare, 0.75)
    }

    func testEveryPieceIsToldAsSoonAsItIsDone() async throws {
        let log = Log()
        let bundle = try TestBundle.make(in: temporaryFolder())
        let last = try await recorder(bundle, log).report(machine: machine, device: device(log)) { report in
            await log.add("\(report.components.count) components, loop \(report.loop != nil)")
        }
        let told = await log.lines.filter { $0.contains("components") }
        XCTAssertEqual(told.prefix(3).map { $0.prefix(1) }, ["1", "2", "3"])
        XCTAssertEqual(told.dropFirst(3).first, "3 components, loop true")
        XCTAssertNotNil(last.loop)
    }

    func testAProcessThatCrashedLosesOnlyWhatItWasAt() async throws {
        let folder = try temporaryFolder().appendingPathComponent("journal")
        let bundle = try TestBundle.make(in: temporaryFolder())
        let log = Log()
        // The first process measures the text encoder, and ends in the midst of the UNet: its marker stays.
        let first = try MeasurementJournal(folder: folder, key: "bundle")
        do {
            _ = try await recorder(bundle, log, broken: .unet).report(
                machine: machine, device: device(log), journal: first)
            XCTFail("nothing was thrown")
        } catch { XCTAssertTrue(error is LoggingRunner.Broken) }
        XCTAssertEqual(try MeasurementJournal(folder: folder, key: "bundle").crashed, [], "an error is no crash")
        try Data("unet".utf8).write(to: folder.appendingPathComponent("running"))

        let second = try MeasurementJournal(folder: folder, key: "bundle")
        XCTAssertEqual(second.crashed, ["unet"])
        let again = Log()
        let report = try await recorder(bundle, again).report(
            machine: machine, device: device(again), journal: second)
        XCTAssertEqual(report.crashed, ["unet"])
        XCTAssertEqual(Set(report.components.keys), [.textEncoder, .decoder])
        XCTAssertEqual(report.json["crashed"], .array([.string("unet")]))
        XCTAssertTrue(report.table.contains("the process ended while it measured: unet"))
        let timed = await again.lines.prefix { $0 != "time text_encoder" }
        XCTAssertEqual(Array(timed), ["time decoder", "time decoder"], "the text encoder's figures are the first's")
        XCTAssertNotNil(report.loop)

        let third = try MeasurementJournal(folder: folder, key: "bundle")
        XCTAssertEqual(third.crashed, ["unet"], "a crash is remembered until the report is complete")
        third.clear()
        XCTAssertEqual(try MeasurementJournal(folder: folder, key: "bundle").crashed, [])
    }

    func testAJournalOfAnotherBundleIsForgotten() async throws {
        let folder = try temporaryFolder().appendingPathComponent("journal")
        let journal = try MeasurementJournal(folder: folder, key: "one")
        let value = try await journal.piece("unet") { 7 }
        XCTAssertEqual(value, 7)
        XCTAssertEqual(try MeasurementJournal(folder: folder, key: "one").noted("unet"), 7)
        XCTAssertNil(try MeasurementJournal(folder: folder, key: "two").noted("unet", as: Int.self))
    }

    func testAHotDeviceIsWaitedForUpToALimit() async throws {
        let log = Log()
        let states: [ConditionsRecord.ThermalState] = [.serious, .fair, .nominal]
        let cools = CoolDown(
            interval: 5,
            state: {
                let looks = await log.lines.count
                await log.add("look")
                return states[min(looks, 2)]
            }, sleep: { _ in })
        let waited = try await cools.wait()
        XCTAssertEqual(waited, 10)
        let stays = try await CoolDown(limit: 20, interval: 5, state: { .fair }, sleep: { _ in }).wait()
        XCTAssertEqual(stays, 20)
        let none = try await CoolDown(state: { nil }, sleep: { _ in XCTFail("slept") }).wait()
        XCTAssertEqual(none, 0)
    }

    func testAMistypedComputeUnitIsNoOtherOne() throws {
        XCTAssertNil(try RuntimeRecord.ComputeUnit(setting: nil))
        XCTAssertEqual(try RuntimeRecord.ComputeUnit(setting: "CPU_ONLY"), .cpuOnly)
        XCTAssertThrowsError(try RuntimeRecord.ComputeUnit(setting: "CPU_AND_ANE")) {
            XCTAssertTrue("\($0)".contains("expected one of ALL, CPU_ONLY, CPU_AND_GPU, CPU_AND_NE"), "\($0)")
        }
    }
}
