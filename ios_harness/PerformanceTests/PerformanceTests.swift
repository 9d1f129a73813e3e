import SnapFusionCoreML
import SnapFusionKit
import UIKit
import XCTest

/// Latency of the embedded bundle on this device, gated by a budget.
///
/// Everything is measured once (`Measurement`), before anything that would heat the device or fill its caches; each test
/// then looks at its own part. The report is attached piece by piece, and kept, whether the gates pass or not.
final class PerformanceTests: XCTestCase {
    override func setUp() async throws {
        continueAfterFailure = true
        // A device that falls asleep measures nothing.
        await MainActor.run { UIApplication.shared.isIdleTimerDisabled = true }
        // The first test measures everything, waiting for the device to cool in between.
        executionTimeAllowance = 3600
    }

    override func tearDown() async throws {
        await MainActor.run { UIApplication.shared.isIdleTimerDisabled = false }
    }

    /// The report, attached behind every piece. All attachments have one name: whoever reads takes the newest.
    private func report() async throws -> BenchReport {
        var last: BenchReport?
        for try await report in Measurement.shared.reports() {
            let data = Data(report.json.serialized().utf8)
            let attachment = XCTAttachment(data: data, uniformTypeIdentifier: "public.json")
            attachment.name = "bench.json"
            attachment.lifetime = .keepAlways
            add(attachment)
            last = report
        }
        return try XCTUnwrap(last)
    }

    private func budget() throws -> LatencyBudget {
        let url = try XCTUnwrap(
            Bundle(for: PerformanceTests.self).url(forResource: "iPhone-14-Pro", withExtension: "json"))
        return try LatencyBudget(contentsOf: url)
    }

    /// Fails with the figures of `part` on the wrong side of their bounds; skips, saying why, if none of them counts.
    private func assertWithinBudget(_ part: String, file: StaticString = #filePath, line: UInt = #line) async throws {
        let report = try await report()
        let budget = try budget()
        guard budget.applies(to: report.machine) else {
            throw XCTSkip("the budget is for \(budget.name), this is \(report.machine.model ?? "unknown"): no gate")
        }
        let verdict = budget.verdict(on: report)
        for excess in verdict.excesses where excess.figure.hasPrefix(part) {
            XCTFail("\(excess) (\(budget.name))", file: file, line: line)
        }
        let skipped = verdict.skipped.filter { $0.figure.hasPrefix(part) }
        if !skipped.isEmpty, !verdict.excesses.contains(where: { $0.figure.hasPrefix(part) }) {
            throw XCTSkip(skipped.map(\.description).joined(separator: "; "))
        }
    }

    func testTextEncoderIsWithinBudget() async throws { try await assertWithinBudget("text_encoder") }

    /// The step of the loop, the share of cost on the Neural Engine, and the CPU alone beside it.
    func testUNetIsWithinBudget() async throws { try await assertWithinBudget("unet") }

    func testDecoderIsWithinBudget() async throws { try await assertWithinBudget("decoder") }

    func testEndToEndIsWithinBudget() async throws { try await assertWithinBudget("end to end") }

    func testNothingCrashed() async throws {
        let report = try await report()
        XCTAssertEqual(report.crashed, [], "the process ended while it measured these")
    }

    /// Which operations leave the Neural Engine is listed, with the report attached; how much may is the budget's.
    func testPlacementIsKnownForEveryComponent() async throws {
        let report = try await report()
        guard #available(iOS 17.4, *) else { throw XCTSkip("compute plans need iOS 17.4") }
        for (name, component) in report.components {
            let placement = try XCTUnwrap(component.placement, "\(name) has no placement")
            XCTAssertGreaterThan(placement.operations, 0, "\(name)")
            for (operation, count) in placement.offNeuralEngine.sorted(by: { $0.key < $1.key }) {
                print("\(name): \(count) × \(operation) off the Neural Engine")
            }
        }
    }

    /// Reads every byte: after the measurement, whose first loads should find nothing in memory.
    func testEveryFileOfTheBundleIsThereAndUnchanged() async throws {
        _ = try? await report()
        XCTAssertNoThrow(try ModelBundle.embedded(check: .full))
    }

    /// Last of all, whatever the order of the tests: it runs everything once more.
    func testComponentsMatchTheGoldenVectors() async throws {
        _ = try? await report()
        let bundle = try ModelBundle.embedded(check: .sizes)
        let check = try GoldenCheck(bundle: bundle)
        let result = try await check.run(on: Measurement.shared.makeRunner(bundle))
        let failures = try check.failures(result, on: .coreml)
        XCTAssertEqual(failures, [])
        for (name, decibels) in result.components { print("\(name): \(decibels) dB from the reference") }
        print("latents at most \(result.latentDifferences.max() ?? 0) apart at any step, image \(result.image) dB")
    }
}
