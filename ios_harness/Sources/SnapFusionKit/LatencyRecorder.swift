import Foundation

/// Measures the components of a bundle one by one, and then the whole loop, on any runner.
public struct LatencyRecorder: Sendable {
    /// What to do, and how to see the device while it is done.
    public struct Options: Sendable {
        /// Timed predictions of each component, after the first one.
        public var predictions: Int
        public var components: [ComponentName]
        public var request: Request
        /// Whether the loop is measured too; it needs all three components.
        public var loop: Bool

        public init(
            predictions: Int = 20, components: [ComponentName] = ComponentName.allCases,
            request: Request = Request(prompt: "a red apple"), loop: Bool = true
        ) {
            self.predictions = predictions
            self.components = components
            self.request = request
            self.loop = loop
        }
    }

    /// A piece of work that is done: `done` of `total`, and what it was.
    public typealias Progress = @Sendable (_ done: Int, _ total: Int, _ what: String) -> Void

    public let bundle: ModelBundle
    public let options: Options
    private let makeRunner: @Sendable () throws -> any ComponentRunner
    private let progress: Progress

    /// - Parameter makeRunner: a fresh runner for each component, so that none finds what another has loaded.
    public init(
        bundle: ModelBundle, options: Options = Options(), progress: @escaping Progress = { _, _, _ in },
        makeRunner: @escaping @Sendable () throws -> any ComponentRunner
    ) throws {
        guard options.predictions >= 1 else {
            throw UsageError("expected 1 or more predictions, found \(options.predictions).")
        }
        for name in options.components { _ = try bundle.component(name) }
        self.bundle = bundle
        self.options = options
        self.progress = progress
        self.makeRunner = makeRunner
    }

    private var total: Int { options.components.count * (options.predictions + 3) + (options.loop ? 2 : 0) }

    /// Measures everything that the options name.
    ///
    /// - Parameters:
    ///   - conditions: the state of the device, asked before and after.
    ///   - placement: where a component's operations run, if the engine can tell.
    public func report(
        machine: MachineRecord, conditions: @Sendable () async -> ConditionsRecord,
        placement: @Sendable (ComponentName) async throws -> PlacementRecord? = { _ in nil }
    ) async throws -> BenchReport {
        let before = await conditions()
        var components: [ComponentName: ComponentLatency] = [:]
        var done = 0
        for name in options.components {
            components[name] = try await measure(name, placement: try await placement(name)) { what in
                done += 1
                progress(done, total, "\(name): \(what)")
            }
        }
        let loop = options.loop ? try await measureLoop() : nil
        let runner = try makeRunner()
        let runtime = try await runner.describe()
        var after = await conditions()
        after.loadAverageBefore = before.loadAverageBefore
        after.thermalStateBefore = before.thermalStateBefore
        if let first = before.memoryWarnings, let last = after.memoryWarnings { after.memoryWarnings = last - first }
        return BenchReport(
            machine: machine, conditions: after, runtime: runtime, bundle: BundleReference(bundle),
            components: components, loop: loop)
    }

    /// One component: cold load, first prediction, the timed ones, then a warm load.
    public func measure(
        _ name: ComponentName, placement: PlacementRecord? = nil, advance: (String) -> Void = { _ in }
    ) async throws -> ComponentLatency {
        let record = try bundle.component(name)
        let inputs = try record.sampleInputs()
        let runner = try makeRunner()
        // The engine itself starts before the clock does.
        _ = try await runner.describe()
        try await runner.forget(name)
        var meter = await MemoryMeter(runner)
        let coldLoad = try await runner.load(name)
        advance("cold load")
        await meter.take()
        let first = try await predict(runner, name, record, inputs)
        advance("first prediction")
        await meter.take()
        var seconds: [Double] = []
        for _ in 0..<options.predictions {
            try Task.checkCancellation()
            seconds.append(try await predict(runner, name, record, inputs))
            advance("prediction")
            await meter.take()
        }
        await runner.unload(name)
        let warmLoad = try await runner.load(name)
        advance("warm load")
        await runner.unloadAll()
        return ComponentLatency(
            coldLoad: coldLoad * 1e3, warmLoad: warmLoad * 1e3, firstPrediction: first * 1e3,
            predictions: try LatencySummary(seconds.map { $0 * 1e3 }), memory: meter.record,
            packageBytes: record.bytes, parameters: record.parameters, placement: placement)
    }

    private func predict(
        _ runner: any ComponentRunner, _ name: ComponentName, _ record: ComponentRecord, _ inputs: [String: Tensor]
    ) async throws -> Double {
        let prediction = try await runner.predict(name, inputs: inputs)
        try record.check(outputs: prediction.outputs, of: name)
        return prediction.seconds
    }

    /// The whole loop: once to warm up, once to measure.
    public func measureLoop() async throws -> LoopLatency {
        let runner = try makeRunner()
        let pipeline = try TextToImage(bundle: bundle, runner: runner)
        var meter = await MemoryMeter(runner)
        let done = total - 2
        for try await _ in pipeline.run(options.request) { await meter.take() }
        progress(done + 1, total, "loop: warm-up")
        let request = options.request
        let scale = request.guidanceScale ?? bundle.manifest.guidance.defaultScale
        let calls = Guidance.isGuided(scale) && bundle.manifest.guidance.batch == 1 ? 2 : 1
        var textEncoder = 0.0
        var steps: [Double] = []
        var result: LoopLatency?
        for try await event in pipeline.run(request) {
            await meter.take()
            switch event {
            case .encoded(_, _, let seconds): textEncoder = seconds * 1e3
            case .step(let step): steps.append(step.seconds * 1e3)
            case .picture(_, let decoder, let total):
                result = LoopLatency(
                    steps: steps.count, guidanceScale: scale, unetCalls: calls * steps.count, textEncoder: textEncoder,
                    stepDurations: steps, decoder: decoder * 1e3, endToEnd: total * 1e3, memory: nil)
            case .loaded, .noise: break
            }
        }
        await runner.unloadAll()
        progress(total, total, "loop")
        guard var result else { throw CancellationError() }
        result.memory = meter.record
        return result
    }
}

/// The highest of the samples that were taken.
private struct MemoryMeter {
    private let runner: any ComponentRunner
    private let before: Int?
    private var peak: MemorySample?

    init(_ runner: any ComponentRunner) async {
        self.runner = runner
        peak = await runner.memory()
        before = peak?.total
    }

    mutating func take() async {
        guard let sample = await runner.memory() else { return }
        guard var peak else {
            self.peak = sample
            return
        }
        peak.total = max(peak.total, sample.total)
        peak.anonymous = zip(peak.anonymous, sample.anonymous)
        peak.fileBacked = zip(peak.fileBacked, sample.fileBacked)
        self.peak = peak
    }

    private func zip(_ first: Int?, _ second: Int?) -> Int? {
        switch (first, second) {
        case (let first?, let second?): max(first, second)
        default: first ?? second
        }
    }

    var record: MemoryRecord? { peak.map { MemoryRecord(before: before ?? $0.total, peak: $0) } }
}
