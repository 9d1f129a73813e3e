import Observation
import SnapFusionCoreML
import SnapFusionKit
import UIKit

/// What the screen shows, and the run behind it: one at a time, cancellable.
@MainActor
@Observable
final class DrawingSession {
    /// The picture that a step predicts; `id` is the step, from 1.
    struct Preview: Identifiable {
        let id: Int
        let image: UIImage
    }

    var prompt = "a red apple"
    var seed = 0
    var lowMemory = false
    private(set) var message = ""
    private(set) var previews: [Preview] = []
    private(set) var picture: UIImage?
    private(set) var report: BenchReport?
    private(set) var reportFile: URL?
    private var work: Task<Void, Never>?

    var isWorking: Bool { work != nil }

    func cancel() { work?.cancel() }

    func draw() {
        let request = Request(prompt: prompt, seed: UInt64(seed), previews: .linear)
        let keepLoaded = !lowMemory
        previews = []
        picture = nil
        start { session in
            let bundle = try ModelBundle.embedded(check: .sizes)
            let runner = CoreMLRunner(
                bundle: bundle, computeUnit: .cpuAndNeuralEngine, chunks: keepLoaded ? .all : .one)
            let pipeline = try TextToImage(bundle: bundle, runner: runner, keepLoaded: keepLoaded)
            for try await event in pipeline.run(request) { session.show(event) }
            // A finished run keeps its components; this screen makes a new runner for each.
            await runner.unloadAll()
        }
    }

    func measure() {
        let request = Request(prompt: prompt, seed: UInt64(seed))
        start { session in
            let bundle = try ModelBundle.embedded(check: .sizes)
            let unit = RuntimeRecord.ComputeUnit.cpuAndNeuralEngine
            let monitor = DeviceMonitor()
            await monitor.start()
            let recorder = try LatencyRecorder(
                bundle: bundle, options: .init(request: request),
                progress: { done, total, what in
                    Task { @MainActor in session.message = "\(done) of \(total): \(what)" }
                },
                makeRunner: { CoreMLRunner(bundle: bundle, computeUnit: unit) })
            let report = try await recorder.report(
                machine: .current(), conditions: { await monitor.conditions() },
                placement: { try await Placement.record(of: $0, in: bundle, computeUnit: unit) })
            let file = FileManager.default.temporaryDirectory.appendingPathComponent("bench.json")
            try Data(report.json.serialized().utf8).write(to: file, options: .atomic)
            session.report = report
            session.reportFile = file
        }
    }

    private func start(_ body: @escaping @MainActor (DrawingSession) async throws -> Void) {
        guard work == nil else { return }
        message = "Loading"
        UIApplication.shared.isIdleTimerDisabled = true
        work = Task {
            do {
                try await body(self)
                message = ""
            } catch is CancellationError {
                message = "Cancelled"
            } catch {
                message = "\(error)"
            }
            UIApplication.shared.isIdleTimerDisabled = false
            work = nil
        }
    }

    private func show(_ event: Event) {
        switch event {
        case .loaded(let name, let seconds): message = String(format: "%@ loaded in %.2f s", name.rawValue, seconds)
        case .encoded, .noise: break
        case .step(let step):
            message = String(format: "Step %d of %d: %.0f ms", step.index + 1, step.count, step.seconds * 1e3)
            if let image = step.preview.flatMap({ UIImage(data: $0.png()) }) {
                previews.append(Preview(id: step.index + 1, image: image))
            }
        case .picture(let picture, _, _): self.picture = UIImage(data: picture.png())
        }
    }
}
