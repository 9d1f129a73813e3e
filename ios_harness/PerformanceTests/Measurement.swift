import SnapFusionCoreML
import SnapFusionKit
import XCTest

/// The one measurement of the embedded bundle that all tests look at: done by whichever test asks first.
///
/// XCTest runs tests by name; the order of the work doesn't depend on it. What has been measured is kept in a journal: if
/// the process crashes, XCTest starts another one for the tests that are left, which goes on behind what crashed.
actor Measurement {
    static let shared = Measurement()

    private var finished: BenchReport?

    /// `SFBENCH_COMPUTE_UNIT` chooses the compute units. A name that is none is an error, not another choice.
    nonisolated func computeUnit() throws -> RuntimeRecord.ComputeUnit {
        try RuntimeRecord.ComputeUnit(setting: ProcessInfo.processInfo.environment["SFBENCH_COMPUTE_UNIT"])
            ?? .cpuAndNeuralEngine
    }

    /// A fresh runner. `SFBENCH_ARRAYS=plain` leaves its arrays in ordinary memory, to compare.
    nonisolated func makeRunner(_ bundle: ModelBundle) throws -> CoreMLRunner {
        let arrays = ProcessInfo.processInfo.environment["SFBENCH_ARRAYS"] ?? "shared"
        guard ["shared", "plain"].contains(arrays) else {
            throw UsageError("'\(arrays)' are no arrays; expected SFBENCH_ARRAYS to be shared or plain.")
        }
        return CoreMLRunner(bundle: bundle, computeUnit: try computeUnit(), sharesMemory: arrays == "shared")
    }

    /// The report as far as it is, behind every piece; the last is the whole one, and the only one once it is finished.
    nonisolated func reports() -> AsyncThrowingStream<BenchReport, any Error> {
        AsyncThrowingStream { continuation in
            let task = Task {
                do {
                    let whole = try await self.measure { continuation.yield($0) }
                    continuation.yield(whole)
                    continuation.finish()
                } catch {
                    continuation.finish(throwing: error)
                }
            }
            continuation.onTermination = { _ in task.cancel() }
        }
    }

    private func measure(_ partial: @escaping @Sendable (BenchReport) -> Void) async throws -> BenchReport {
        if let finished { return finished }
        let unit = try computeUnit()
        // Sizes only: reading gigabytes to check them would warm every cache. The checksums are tested afterwards.
        let bundle = try ModelBundle.embedded(check: .sizes)
        let monitor = DeviceMonitor()
        await monitor.start()
        let machine = MachineRecord.current()
        let journal = try MeasurementJournal(
            folder: URL.applicationSupportDirectory.appending(path: "Measurement"),
            key: "\(bundle.manifestSHA256) \(unit.rawValue) \(machine.os)")
        let prompt = bundle.manifest.golden?.prompt ?? "a red apple"
        let recorder = try LatencyRecorder(
            bundle: bundle, options: .init(request: TextToImage.Request(prompt: prompt), control: [.unet]),
            progress: { print("\($0)/\($1) \($2)") }, makeRunner: { try self.makeRunner(bundle) })
        let report = try await recorder.report(
            machine: machine, device: .core(bundle: bundle, computeUnit: unit, monitor: monitor, coolDown: 300),
            journal: journal, partial: partial)
        journal.clear()
        finished = report
        return report
    }
}
