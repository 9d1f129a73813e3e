import Observation
import SnapFusionCoreML
import SnapFusionKit
import UIKit

/// What the screen shows, and the run behind it: one at a time, cancellable.
@MainActor
@Observable
final class DrawingSession {
    var form = DrawingForm()
    var computeUnit = RuntimeRecord.ComputeUnit.cpuAndNeuralEngine
    var lowMemory = false
    private(set) var message = ""
    private(set) var previews: [DrawnPicture] = []
    private(set) var picture: DrawnPicture?
    /// Whether the safety checker flags the picture, which is black.
    private(set) var isFlagged = false
    private(set) var history = PictureHistory()
    private(set) var report: BenchReport?
    private(set) var reportFile: URL?
    private var work: Task<Void, Never>?
    private var ready: (engine: EngineChoice, pipeline: TextToImage)?

    /// What a pipeline is made for; another choice makes another.
    private struct EngineChoice: Equatable {
        let computeUnit: RuntimeRecord.ComputeUnit
        let lowMemory: Bool
    }

    var isWorking: Bool { work != nil }

    func cancel() { work?.cancel() }

    /// Takes the model's own settings, and loads its components one by one before the first prompt.
    func prepare() {
        start("Loading") { session in
            let pipeline = try await session.pipeline()
            session.form.adopt(pipeline.bundle.manifest)
            if !session.lowMemory { try await pipeline.prewarm() }
        }
    }

    func draw() {
        let form = form
        previews = []
        picture = nil
        isFlagged = false
        start("Loading") { session in
            let request = try form.request()
            for try await event in try await session.pipeline().run(request) { try session.show(event, of: request) }
        }
    }

    func measure() {
        let request = TextToImage.Request(prompt: form.prompt, seed: UInt64(clamping: form.seed))
        let unit = computeUnit
        start("Measuring") { session in
            await session.free()
            let bundle = try ModelBundle.embedded(check: .sizes)
            let monitor = DeviceMonitor()
            await monitor.start()
            let recorder = try LatencyRecorder(
                bundle: bundle, options: .init(request: request),
                progress: { done, total, what in
                    Task { @MainActor in session.message = "\(done) of \(total): \(what)" }
                },
                makeRunner: { CoreMLRunner(bundle: bundle, computeUnit: unit) })
            let report = try await recorder.report(
                machine: .current(), device: .core(bundle: bundle, computeUnit: unit, monitor: monitor))
            let file = FileManager.default.temporaryDirectory.appendingPathComponent("bench.json")
            try Data(report.json.serialized().utf8).write(to: file, options: .atomic)
            session.report = report
            session.reportFile = file
        }
    }

    /// Takes a picture of the person's as the one to start from, or for a ControlNet.
    func take(_ load: @escaping @MainActor () async throws -> Data?, for control: String? = nil) {
        start("Reading the picture") { session in
            guard let data = try await load() else { throw UnavailableError("Photos gives no picture.") }
            let offer = session.form.offer
            try session.take(GeneratedPicture(imageData: data, width: offer.width, height: offer.height), for: control)
        }
    }

    /// Goes on from a picture that was drawn.
    func goOn(from picture: DrawnPicture) {
        guard let file = picture.file else { return }
        take({ try Data(contentsOf: file) })
    }

    private func take(_ picture: GeneratedPicture, for control: String?) throws {
        if let control {
            try form.control(control, by: picture)
        } else {
            try form.use(picture)
        }
    }

    func save(_ file: URL) {
        start("Saving", done: "Saved to Photos") { _ in try await PhotoLibrary.add(file) }
    }

    /// Shows a picture of the history again.
    func show(_ picture: DrawnPicture) {
        self.picture = picture
        isFlagged = false
    }

    func clearHistory() { history.clear() }

    /// The pipeline for the engine that is chosen. Components stay loaded between runs.
    private func pipeline() async throws -> TextToImage {
        let choice = EngineChoice(computeUnit: computeUnit, lowMemory: lowMemory)
        if let ready, ready.engine == choice { return ready.pipeline }
        await free()
        let bundle = try ModelBundle.embedded(check: .sizes)
        let runner = CoreMLRunner(
            bundle: bundle, computeUnit: choice.computeUnit, chunks: choice.lowMemory ? .one : .all)
        let pipeline = try TextToImage(bundle: bundle, runner: runner, keepLoaded: !choice.lowMemory)
        ready = (choice, pipeline)
        return pipeline
    }

    private func free() async {
        await ready?.pipeline.runner.unloadAll()
        ready = nil
    }

    private func start(
        _ word: String, done: String = "", _ body: @escaping @MainActor (DrawingSession) async throws -> Void
    ) {
        guard work == nil else { return }
        message = word
        UIApplication.shared.isIdleTimerDisabled = true
        work = Task {
            do {
                try await body(self)
                message = done
            } catch is CancellationError {
                message = "Cancelled"
            } catch {
                message = "\(error)"
            }
            UIApplication.shared.isIdleTimerDisabled = false
            work = nil
        }
    }

    private func show(_ event: TextToImage.Event, of request: TextToImage.Request) throws {
        switch event {
        case .loaded(let name, let seconds): message = String(format: "%@ loaded in %.2f s", name.rawValue, seconds)
        case .encoded, .noise: break
        case .step(let step):
            message = String(format: "Step %d of %d: %.0f ms", step.index + 1, step.count, step.seconds * 1e3)
            if let preview = step.preview {
                previews.append(
                    DrawnPicture(
                        id: "step \(step.index)", image: try preview.uiImage(),
                        title: "Step \(step.index + 1) of \(step.count)", caption: "\(step.index + 1)"))
            }
        case .checked(let verdict, _):
            isFlagged = verdict.isFlagged
            // What led to a flagged picture shows it too.
            if isFlagged { previews = [] }
        case .picture(let picture, _, _):
            self.picture = try history.add(picture, title: request.prompt, seed: request.seed)
        }
    }
}
