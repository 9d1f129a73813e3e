import SnapFusionKit
import XCTest

final class LatencyBudgetTests: XCTestCase {
    /// A report of a UNet of 100 ms, 300 ms on the CPU alone, 90 % of its cost on the Neural Engine, two calls a step.
    private func report() async throws -> BenchReport {
        let bundle = try TestBundle.make(in: temporaryFolder(), batch: 1)
        var conditions = ConditionsRecord()
        conditions.thermalStateBefore = .nominal
        conditions.thermalStateAfter = .nominal
        let cool = conditions
        let recorder = try LatencyRecorder(
            bundle: bundle, options: .init(predictions: 1, request: .init(prompt: "a", steps: 1))
        ) { RecordingRunner() }
        var report = try await recorder.report(
            machine: MachineRecord(
                model: "iPhone15,2", processor: "", architecture: "", cores: 6, memoryBytes: 1, os: "iOS 18.1"),
            device: .init(conditions: { cool }))
        report.components[.unet]?.predictions = try LatencySummary([100])
        report.components[.unet]?.cpuOnlyMedian = 300
        report.components[.unet]?.placement = PlacementRecord()
        report.components[.unet]?.placement?.neuralEngineCost = 0.9
        report.components[.unet]?.placement?.cpuCost = 0.1
        report.loop?.stepDurations = [210, 200, 220]
        return report
    }

    private func budget(_ text: String) throws -> LatencyBudget {
        let file = try temporaryFolder().appendingPathComponent("budget.json")
        try Data(text.utf8).write(to: file)
        return try LatencyBudget(contentsOf: file)
    }

    func testTheGateIsOnTheStepNotOnOneCall() async throws {
        let verdict = try budget(#"{"name": "x", "components_ms": {}, "step_ms": 205}"#).verdict(on: try await report())
        XCTAssertEqual(verdict.excesses, [.init(figure: "unet step", bound: 205, found: 210)])
    }

    func testAUNetThatLeavesTheNeuralEngineFails() async throws {
        let strict = try budget(
            #"{"name": "x", "components_ms": {}, "neural_engine_cost": {"unet": 0.95}, "cpu_only_ratio": {"unet": 4}}"#)
        let verdict = strict.verdict(on: try await report())
        XCTAssertEqual(verdict.excesses.map(\.figure), ["unet cost on the Neural Engine", "unet on the CPU alone"])
        XCTAssertEqual(
            verdict.excesses.map(\.description),
            [
                "unet cost on the Neural Engine: 90 %, at least 95 expected",
                "unet on the CPU alone: 3.0 times as slow, at least 4.0 expected",
            ])
        var fallen = try await report()
        fallen.components[.unet]?.placement?.neuralEngineCost = nil
        fallen.components[.unet]?.placement?.gpuCost = 0.9
        XCTAssertEqual(strict.verdict(on: fallen).excesses.first?.found, 0, "no cost there at all is a share of 0")
    }

    func testWhatCannotBeKnownIsSkippedSayingWhy() async throws {
        let bounds = try budget(
            #"{"name": "x", "components_ms": {"decoder": 0.001}, "neural_engine_cost": {"unet": 0.9}, "cpu_only_ratio": {"unet": 2}}"#
        )
        var report = try await report()
        report.components[.unet]?.placement = nil
        report.components[.unet]?.cpuOnlyMedian = nil
        report.components[.decoder] = nil
        report.crashed = ["decoder"]
        let verdict = bounds.verdict(on: report)
        XCTAssertEqual(verdict.excesses, [])
        XCTAssertEqual(
            verdict.skipped.map(\.description),
            [
                "unet cost on the Neural Engine: not gated, there is no compute plan",
                "unet on the CPU alone: not gated, there is no run on the CPU alone",
                "decoder median: not gated, it crashed",
            ])
    }

    func testHeatAndLowPowerModeSkipDurationsOnly() async throws {
        let bounds = try budget(
            #"{"name": "x", "components_ms": {"unet": 1}, "step_ms": 1, "neural_engine_cost": {"unet": 0.95}}"#)
        var hot = try await report()
        hot.components[.unet]?.thermalStateAfter = .serious
        var verdict = bounds.verdict(on: hot)
        XCTAssertEqual(verdict.excesses.map(\.figure), ["unet cost on the Neural Engine", "unet step"])
        XCTAssertEqual(verdict.skipped.first?.reason, "the thermal state was nominal to serious")
        var saving = try await report()
        saving.conditions.lowPowerMode = true
        verdict = bounds.verdict(on: saving)
        XCTAssertEqual(verdict.excesses.map(\.figure), ["unet cost on the Neural Engine"])
        XCTAssertEqual(verdict.skipped.map(\.reason), ["low power mode was on", "low power mode was on"])
    }

    func testAShareAboveOneIsRefused() {
        XCTAssertThrowsError(
            try budget(#"{"name": "x", "components_ms": {}, "neural_engine_cost": {"unet": 95}}"#)
        ) { XCTAssertTrue($0 is FileFormatError) }
    }
}
