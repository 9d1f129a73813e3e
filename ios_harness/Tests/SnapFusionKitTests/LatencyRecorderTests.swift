import SnapFusionKit
import XCTest

private func conditions() -> ConditionsRecord {
    var conditions = ConditionsRecord()
    conditions.thermalStateAfter = .serious
    conditions.thermalStateBefore = .fair
    conditions.lowPowerMode = true
    conditions.memoryWarnings = 2
    return conditions
}

final class LatencyRecorderTests: XCTestCase {
    private let machine = MachineRecord(
        model: nil, processor: "none", architecture: "arm64", cores: 6, memoryBytes: 6 << 30, os: "iOS 18.1")

    func testPercentilesAreNumPys() throws {
        let summary = try LatencySummary([5, 1, 4, 2, 3])
        XCTAssertEqual(summary.median, 3)
        XCTAssertEqual(summary.p95, 4.8, accuracy: 1e-12)
        XCTAssertEqual(summary.minimum, 1)
        XCTAssertEqual(try LatencySummary([1, 2]).median, 1.5)
        XCTAssertEqual(try LatencySummary([7]).p95, 7)
        XCTAssertThrowsError(try LatencySummary([])) { XCTAssertTrue($0 is UsageError) }
    }

    func testAReportHoldsEveryComponentTheLoopAndTheDevicesState() async throws {
        let bundle = try TestBundle.make(in: temporaryFolder(), batch: 1)
        let options = LatencyRecorder.Options(predictions: 3, request: TextToImage.Request(prompt: "a", steps: 2))
        let recorder = try LatencyRecorder(bundle: bundle, options: options) { RecordingRunner() }
        let report = try await recorder.report(
            machine: machine, device: .init(conditions: { conditions() }))
        XCTAssertEqual(Set(report.components.keys), Set(TestBundle.components))
        let unet = try XCTUnwrap(report.components[.unet])
        XCTAssertEqual(unet.coldLoad, 500)
        XCTAssertEqual(unet.warmLoad, 500)
        XCTAssertEqual(unet.firstPrediction, 1)
        XCTAssertEqual(unet.firstLoad, 500)
        XCTAssertNil(unet.compile, "this engine compiles nothing")
        XCTAssertEqual([unet.thermalStateBefore, unet.thermalStateAfter], [.serious, .serious])
        XCTAssertEqual(unet.predictions.count, 3)
        XCTAssertEqual(unet.memory, MemoryRecord(before: 1000, peak: MemorySample(total: 1010, anonymous: 10)))
        let loop = try XCTUnwrap(report.loop)
        XCTAssertEqual(loop.stepDurations.count, 2)
        XCTAssertEqual(loop.unetCalls, 4, "two calls a step with a UNet of batch 1")
        XCTAssertEqual(report.conditions.thermalStateAfter, .serious)
        XCTAssertEqual(report.conditions.lowPowerMode, true)
        XCTAssertEqual(report.conditions.memoryWarnings, 0, "warnings during the measurement only")
    }

    func testTheReportIsWrittenWithEveryField() async throws {
        let bundle = try TestBundle.make(in: temporaryFolder())
        let options = LatencyRecorder.Options(
            predictions: 1, request: TextToImage.Request(prompt: "a", steps: 1), loop: false)
        let recorder = try LatencyRecorder(bundle: bundle, options: options) { RecordingRunner() }
        let report = try await recorder.report(
            machine: machine, device: .init(conditions: { conditions() }))
        let json = try OrderedJSON(parsing: Data(report.json.serialized().utf8))
        XCTAssertEqual(json["kind"], .string("bench"))
        XCTAssertEqual(json["loop"], .null)
        XCTAssertEqual(json["machine"]?["model"], .null)
        XCTAssertEqual(json["bundle"]?["manifest_sha256"], .string(bundle.manifestSHA256))
        XCTAssertEqual(json["components"]?["decoder"]?["median_ms"], .number(1))
    }

    func testOptionsThatMeasureNothingAreRefused() throws {
        let bundle = try TestBundle.make(in: temporaryFolder(), components: [.decoder])
        XCTAssertThrowsError(
            try LatencyRecorder(bundle: bundle, options: .init(predictions: 0, components: [.decoder])) {
                RecordingRunner()
            }
        ) { XCTAssertTrue($0 is UsageError) }
        XCTAssertThrowsError(try LatencyRecorder(bundle: bundle) { RecordingRunner() }) {
            XCTAssertEqual($0 as? ComponentError, .missing(.textEncoder))
        }
    }

    func testABudgetNamesWhatExceedsIt() async throws {
        let bundle = try TestBundle.make(in: temporaryFolder())
        let options = LatencyRecorder.Options(predictions: 1, request: TextToImage.Request(prompt: "a", steps: 1))
        let recorder = try LatencyRecorder(bundle: bundle, options: options) { RecordingRunner() }
        let report = try await recorder.report(
            machine: machine, device: .init(conditions: { conditions() }))
        let file = try temporaryFolder().appendingPathComponent("budget.json")
        let text = #"{"name": "x", "components_ms": {"unet": 0.5, "decoder": 2}, "end_to_end_ms": 60000}"#
        try Data(text.utf8).write(to: file)
        var cool = report
        cool.components[.unet]?.thermalStateBefore = .nominal
        cool.components[.unet]?.thermalStateAfter = .nominal
        cool.conditions.lowPowerMode = false
        let excesses = try LatencyBudget(contentsOf: file).verdict(on: cool).excesses
        XCTAssertEqual(excesses, [LatencyBudget.Excess(figure: "unet median", bound: 0.5, found: 1)])
        XCTAssertEqual(excesses.first?.description, "unet median: 1.0 ms, 0.5 allowed (+100 %)")
        for bad in [
            "[]", #"{"name": "x", "components_ms": {"UNet": 1}}"#, #"{"name": "x", "components_ms": {"unet": -1}}"#,
        ] {
            try Data(bad.utf8).write(to: file)
            XCTAssertThrowsError(try LatencyBudget(contentsOf: file)) {
                XCTAssertEqual(($0 as? FileFormatError)?.file, file.path)
            }
        }
    }
}
