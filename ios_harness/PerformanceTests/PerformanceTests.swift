import SnapFusionCoreML
import SnapFusionKit
import XCTest

/// Latency of the embedded bundle on this device, gated by a budget.
///
/// Everything is measured once, by whichever test comes first; each test then looks at its own part. The report is
/// attached, and kept, whether the gates pass or not. `SFBENCH_COMPUTE_UNIT` chooses the compute units.
final class PerformanceTests: XCTestCase {
    private static let computeUnit =
        ProcessInfo.processInfo.environment["SFBENCH_COMPUTE_UNIT"].flatMap(RuntimeRecord.ComputeUnit.init(rawValue:))
        ?? .cpuAndNeuralEngine

    private static let measurement = Task { try await measure() }

    private static func measure() async throws -> BenchReport {
        let bundle = try ModelBundle.embedded()
        let monitor = DeviceMonitor()
        await monitor.start()
        let unit = computeUnit
        let prompt = bundle.manifest.golden?.prompt ?? "a red apple"
        let recorder = try LatencyRecorder(
            bundle: bundle, options: .init(request: Request(prompt: prompt)), progress: { print("\($0)/\($1) \($2)") },
            makeRunner: { CoreMLRunner(bundle: bundle, computeUnit: unit) })
        return try await recorder.report(
            machine: .current(), conditions: { await monitor.conditions() },
            placement: { try await Placement.record(of: $0, in: bundle, computeUnit: unit) })
    }

    private func report() async throws -> BenchReport {
        let report = try await PerformanceTests.measurement.value
        let attachment = XCTAttachment(data: Data(report.json.serialized().utf8), uniformTypeIdentifier: "public.json")
        attachment.name = "bench.json"
        attachment.lifetime = .keepAlways
        add(attachment)
        return report
    }

    private func budget() throws -> Budget {
        let url = try XCTUnwrap(
            Bundle(for: PerformanceTests.self).url(forResource: "iPhone-14-Pro", withExtension: "json"))
        return try Budget(contentsOf: url)
    }

    /// Fails with the figures of `part` that exceed the budget.
    private func assertWithinBudget(_ part: String, file: StaticString = #filePath, line: UInt = #line) async throws {
        let report = try await report()
        let budget = try budget()
        guard budget.applies(to: report.machine) else {
            throw XCTSkip("the budget is for \(budget.name), this is \(report.machine.model ?? "unknown"): no gate")
        }
        for excess in budget.excesses(of: report) where excess.figure.hasPrefix(part) {
            XCTFail("\(excess) (\(budget.name))", file: file, line: line)
        }
    }

    func testEveryFileOfTheBundleIsThereAndUnchanged() throws {
        XCTAssertNoThrow(try ModelBundle.embedded(check: .full))
    }

    func testTextEncoderIsWithinBudget() async throws { try await assertWithinBudget("text_encoder") }

    func testUNetIsWithinBudget() async throws { try await assertWithinBudget("unet") }

    func testDecoderIsWithinBudget() async throws { try await assertWithinBudget("decoder") }

    func testEndToEndIsWithinBudget() async throws { try await assertWithinBudget("end to end") }

    /// An operation that leaves the Neural Engine doesn't fail the run; it is listed, with the report attached.
    func testPlacementIsKnownForEveryComponent() async throws {
        let report = try await report()
        for (name, component) in report.components {
            guard #available(iOS 17.4, *) else { throw XCTSkip("compute plans need iOS 17.4") }
            let placement = try XCTUnwrap(component.placement, "\(name) has no placement")
            XCTAssertGreaterThan(placement.operations, 0, "\(name)")
            for (operation, count) in placement.offNeuralEngine.sorted(by: { $0.key < $1.key }) {
                print("\(name): \(count) × \(operation) off the Neural Engine")
            }
        }
    }

    func testComponentsMatchTheGoldenVectors() async throws {
        let bundle = try ModelBundle.embedded()
        let check = try GoldenCheck(bundle: bundle)
        let result = try await check.run(on: CoreMLRunner(bundle: bundle, computeUnit: PerformanceTests.computeUnit))
        let failures = try check.failures(result)
        XCTAssertEqual(failures, [])
        print("latents at most \(result.latentDifferences.max() ?? 0) apart at any step, image \(result.image) dB")
    }
}
