import Foundation

/// Measures the components of a bundle one by one, and then the whole loop, on any runner.
public struct LatencyRecorder: Sendable {
    /// What to do, and how to see the device while it is done.
    public struct Options: Sendable {
        /// Timed predictions of each component, after the first one.
        public var predictions: Int
        public var components: [ComponentName]
        public var request: TextToImage.Request
        /// Whether the loop is measured too; it needs every component.
        public var loop: Bool
        /// What also runs on the CPU alone, as a control, a few times.
        public var control: [ComponentName]

        public init(
            predictions: Int = 20, components: [ComponentName] = [.textEncoder, .unet, .decoder],
            request: TextToImage.Request = TextToImage.Request(prompt: "a red apple"), loop: Bool = true,
            control: [ComponentName] = []
        ) {
            self.predictions = predictions
            self.components = components
            self.request = request
            self.loop = loop
            self.control = control
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

    private static let controlPredictions = 3

    private var total: Int {
        options.components.count * (options.predictions + 3) + (options.loop ? 2 : 0) + options.control.count
    }

    /// What is asked of the device while it is measured; the defaults ask nothing.
    public struct Device: Sendable {
        /// The state of the device, asked before and after everything and every piece.
        public var conditions: @Sendable () async -> ConditionsRecord
        /// Where a component's operations run, if the engine can tell.
        public var placement: @Sendable (ComponentName) async throws -> PlacementRecord?
        /// A fresh runner on the CPU alone, for the control.
        public var makeControl: (@Sendable () throws -> any ComponentRunner)?
        /// Waits before each piece.
        public var coolDown: CoolDown?

        public init(
            conditions: @escaping @Sendable () async -> ConditionsRecord,
            placement: @escaping @Sendable (ComponentName) async throws -> PlacementRecord? = { _ in nil },
            makeControl: (@Sendable () throws -> any ComponentRunner)? = nil, coolDown: CoolDown? = nil
        ) {
            self.conditions = conditions
            self.placement = placement
            self.makeControl = makeControl
            self.coolDown = coolDown
        }
    }

    /// Measures everything that the options name. What heats the device or leaves traces in caches comes after what
    /// is timed: first the components, then the loop, then the control on the CPU, and placement last.
    ///
    /// - Parameters:
    ///   - journal: keeps every piece as it is done, and what a process before this one has done.
    ///   - partial: gets the report as far as it is, behind every piece; the last is the one that is returned.
    public func report(
        machine: MachineRecord, device: Device, journal: MeasurementJournal? = nil,
        partial: @Sendable (BenchReport) async -> Void = { _ in }
    ) async throws -> BenchReport {
        let before = await device.conditions()
        var report = BenchReport(
            machine: machine, conditions: before, runtime: try await makeRunner().describe(),
            bundle: BundleReference(bundle), components: [:], loop: nil, crashed: journal?.crashed ?? [])
        var waited = 0.0
        var done = 0

        /// One piece: out of the journal, or measured now between two looks at the device.
        func piece<Value: Codable & Sendable>(
            _ name: String, timed: Bool = true, _ measure: () async throws -> Value
        ) async throws -> Value? {
            func measureCool() async throws -> Value {
                if timed, let coolDown = device.coolDown { waited += try await coolDown.wait() }
                return try await measure()
            }
            guard let journal else { return try await measureCool() }
            return try await journal.piece(name, measure: measureCool)
        }
        func show() async {
            var after = await device.conditions()
            after.loadAverageBefore = before.loadAverageBefore
            after.thermalStateBefore = before.thermalStateBefore
            if let first = before.memoryWarnings, let last = after.memoryWarnings {
                after.memoryWarnings = last - first
            }
            if device.coolDown != nil { after.waitedForNominal = waited }
            report.conditions = after
            report.createdAt = Date()
            await partial(report)
        }

        for name in options.components {
            report.components[name] = try await piece(name.rawValue) {
                let state = await device.conditions().thermalStateAfter
                var latency = try await measure(name) { what in
                    done += 1
                    progress(done, total, "\(name): \(what)")
                }
                latency.thermalStateBefore = state
                latency.thermalStateAfter = await device.conditions().thermalStateAfter
                return latency
            }
            await show()
        }
        if options.loop {
            report.loop = try await piece("loop") {
                let state = await device.conditions().thermalStateAfter
                var latency = try await measureLoop()
                latency.thermalStateBefore = state
                latency.thermalStateAfter = await device.conditions().thermalStateAfter
                return latency
            }
            await show()
        }
        for name in options.control where report.components[name] != nil {
            guard let makeControl = device.makeControl else { break }
            report.components[name]?.cpuOnlyMedian = try await piece("\(name) on the CPU", timed: false) {
                try await measureControl(name, on: makeControl())
            }
            progress(total - options.control.count + 1, total, "\(name): on the CPU alone")
            await show()
        }
        for name in options.components where report.components[name] != nil {
            let placement: PlacementRecord?? = try await piece("\(name) placement", timed: false) {
                try await device.placement(name)
            }
            report.components[name]?.placement = placement ?? nil
        }
        await show()
        return report
    }

    /// One component: the first load, the first prediction, the timed ones, then a warm load.
    public func measure(_ name: ComponentName, advance: (String) -> Void = { _ in }) async throws -> ComponentLatency {
        let record = try bundle.component(name)
        let inputs = try record.sampleInputs()
        let runner = try makeRunner()
        // The engine itself starts before the clock does.
        _ = try await runner.describe()
        try await runner.forget(name)
        let meter = MemoryMeter(runner)
        let before = await meter.take()?.total
        // The peak of a load is over when it is done: it is looked at while it goes on.
        let load = try await meter.sampling { try await runner.load(name) }
        advance("first load")
        let first = try await meter.sampling { try await predict(runner, name, record, inputs) }
        advance("first prediction")
        var seconds: [Double] = []
        for _ in 0..<options.predictions {
            try Task.checkCancellation()
            seconds.append(try await predict(runner, name, record, inputs))
            advance("prediction")
            await meter.take()
        }
        let buffers = await runner.buffers(of: name)
        await runner.unload(name)
        let warmLoad = try await runner.load(name)
        advance("warm load")
        await runner.unloadAll()
        return ComponentLatency(
            coldLoad: load.seconds * 1e3, compile: load.compile.map { $0 * 1e3 }, firstLoad: load.load * 1e3,
            firstLoadKind: load.kind, warmLoad: warmLoad.seconds * 1e3, firstPrediction: first * 1e3,
            predictions: try LatencySummary(seconds.map { $0 * 1e3 }), memory: await meter.record(before: before),
            packageBytes: record.bytes, parameters: record.parameters, placement: nil, thermalStateBefore: nil,
            thermalStateAfter: nil, buffers: buffers, cpuOnlyMedian: nil)
    }

    /// Median of a few predictions, in milliseconds.
    private func measureControl(_ name: ComponentName, on runner: any ComponentRunner) async throws -> Double {
        let record = try bundle.component(name)
        let inputs = try record.sampleInputs()
        try await runner.prewarm(name, record: record)
        var seconds: [Double] = []
        for _ in 0..<LatencyRecorder.controlPredictions {
            try Task.checkCancellation()
            seconds.append(try await predict(runner, name, record, inputs))
        }
        await runner.unloadAll()
        return try LatencySummary(seconds).median * 1e3
    }

    private func predict(
        _ runner: any ComponentRunner, _ name: ComponentName, _ record: ComponentRecord, _ inputs: [String: HostTensor]
    ) async throws -> Double {
        let prediction = try await runner.predict(name, inputs: inputs)
        try record.check(outputs: prediction.outputs, of: name)
        return prediction.seconds
    }

    /// The whole loop: once to warm up, once to measure.
    public func measureLoop() async throws -> LoopLatency {
        let runner = try makeRunner()
        let pipeline = try TextToImage(bundle: bundle, runner: runner)
        let meter = MemoryMeter(runner)
        let before = await meter.take()?.total
        let done = total - 2 - options.control.count
        try await meter.sampling {
            for try await _ in pipeline.run(options.request) {}
        }
        progress(done + 1, total, "loop: warm-up")
        let request = options.request
        let scale = request.guidanceScale ?? bundle.manifest.guidance.defaultScale
        let manifest = bundle.manifest
        let isGuided = ClassifierFreeGuidance.isGuided(scale) && !manifest.pipeline.takesGuidance
        let calls = isGuided && manifest.guidance.batch == 1 ? 2 : 1
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
                    steps: steps.count, guidanceScale: scale,
                    sampler: try pipeline.samplerRecord(of: request).name, unetCalls: calls * steps.count, textEncoder: textEncoder,
                    stepDurations: steps, decoder: decoder * 1e3, endToEnd: total * 1e3, memory: nil)
            case .loaded, .noise, .checked: break
            }
        }
        await runner.unloadAll()
        progress(done + 2, total, "loop")
        guard var result else { throw CancellationError() }
        result.memory = await meter.record(before: before)
        return result
    }
}

/// The worst of the samples that were taken.
private actor MemoryMeter {
    private static let interval = Duration.milliseconds(10)

    private let runner: any ComponentRunner
    private var peak: MemorySample?

    init(_ runner: any ComponentRunner) { self.runner = runner }

    @discardableResult
    func take() async -> MemorySample? {
        guard let sample = await runner.memory() else { return nil }
        peak = peak?.worst(sample) ?? sample
        return sample
    }

    /// Does `work`, taking samples before, during and after it.
    nonisolated func sampling<Value: Sendable>(_ work: () async throws -> Value) async throws -> Value {
        let sampler = Task {
            while !Task.isCancelled, await self.take() != nil {
                try? await Task.sleep(for: MemoryMeter.interval)
            }
        }
        defer { sampler.cancel() }
        let value = try await work()
        await take()
        return value
    }

    func record(before: Int?) -> MemoryRecord? { peak.map { MemoryRecord(before: before ?? $0.total, peak: $0) } }
}
