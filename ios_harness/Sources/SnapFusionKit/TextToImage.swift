/// The pipeline of one bundle over any runner.
///
/// Components are loaded on first use. With `keepLoaded` false each is freed as soon as its part is done, so that only
/// one is in memory at a time. A run that fails or is cancelled frees all of them.
public struct TextToImage: Sendable {
    public let bundle: ModelBundle
    public let runner: any ComponentRunner
    public let tokenizer: CLIPTokenizer
    public let timeEmbedding: TimeEmbedding
    public let keepLoaded: Bool
    /// What looks at each picture before it is shown, where the bundle has it.
    public let safety: SafetyChecker?

    /// Throws `FileFormatError` or `UsageError` if the bundle's tokenizer or constants can't be used, or its task is none
    /// that this harness runs.
    public init(bundle: ModelBundle, runner: any ComponentRunner, keepLoaded: Bool = true) throws {
        guard bundle.manifest.pipeline.task != .depthToImage else {
            throw UsageError(
                "'\(bundle.manifest.name)' is for \(bundle.manifest.pipeline.task.rawValue), which this harness can't run "
                    + "yet.")
        }
        self.bundle = bundle
        self.runner = runner
        self.keepLoaded = keepLoaded
        tokenizer = try CLIPTokenizer(bundle: bundle)
        safety = try SafetyChecker(bundle: bundle)
        timeEmbedding = try TimeEmbedding(bundle.manifest.timeEmbedding)
    }

    /// Draws `request`. The request is checked before anything is loaded. Ending the iteration early, or cancelling
    /// the task that iterates, stops the run and frees the components; the latter throws `CancellationError`.
    public func run(_ request: Request) -> Events {
        let stream = AsyncThrowingStream<Event, any Error> { continuation in
            let task = Task {
                do {
                    try await draw(request) { continuation.yield($0) }
                    continuation.finish()
                } catch {
                    await runner.unloadAll()
                    continuation.finish(throwing: error)
                }
            }
            continuation.onTermination = { _ in task.cancel() }
        }
        return Events(stream: stream)
    }

    /// Loads every component, one after the other, and runs each once on noise: what Core ML puts off until the first
    /// load or prediction is over before somebody waits for a picture. Returns the seconds that each took.
    ///
    /// With `keepLoaded` false this only makes what is kept between loads: each is freed again.
    @discardableResult
    public func prewarm() async throws -> [ComponentName: Double] {
        var seconds: [ComponentName: Double] = [:]
        for name in bundle.manifest.componentNames {
            try Task.checkCancellation()
            let start = ContinuousClock.now
            try await runner.prewarm(name, record: try bundle.component(name))
            seconds[name] = start.secondsSince()
            await doneWith(name)
        }
        return seconds
    }

    /// Draws `request` and returns the picture.
    public func picture(_ request: Request) async throws -> GeneratedPicture {
        var drawn: GeneratedPicture?
        for try await event in run(request) {
            if case .picture(let picture, _, _) = event { drawn = picture }
        }
        guard let drawn else { throw CancellationError() }
        return drawn
    }

    private func draw(_ request: Request, report: @Sendable (Event) -> Void) async throws {
        let manifest = bundle.manifest
        let steps = request.steps ?? manifest.pipeline.defaultSteps
        let scale = request.guidanceScale ?? manifest.guidance.defaultScale
        let record = try samplerRecord(of: request)
        let task = try DrawingTask(manifest, request.given)
        var (sampler, begun) = try task.start(record, steps: steps)
        try ClassifierFreeGuidance.check(scale: scale)
        if let scale = task.pictureGuidance { try ClassifierFreeGuidance.check(scale: scale) }
        if request.previews == .decoded && !keepLoaded {
            throw UsageError(
                "decoded previews need the decoder beside the UNet; keep the components loaded, or take linear ones.")
        }
        let linear = request.previews == .linear ? try await fitPreview(report) : nil

        for control in request.controls { try control.check(in: manifest) }
        let isGuided = ClassifierFreeGuidance.isGuided(scale) && !manifest.pipeline.takesGuidance && task.mayBeGuided
        let prompt = try cut(request.prompt, request.syntax)
        let negative = try cut(request.negativePrompt, request.syntax)

        try await load(.textEncoder, report)
        let start = ContinuousClock.now
        var loading = 0.0
        let encodingStart = ContinuousClock.now
        let conditional = try await conditions(prompt, scale)
        var unconditional: ClassifierFreeGuidance.Conditions?
        if isGuided { unconditional = try await conditions(negative, scale) }
        report(
            .encoded(
                tokens: prompt.ids, negativeTokens: isGuided ? negative.ids : nil, seconds: encodingStart.secondsSince()))
        await doneWith(.textEncoder)

        var generator = TorchGenerator(seed: request.seed)
        let drawn = task.draw(&generator, count: HostTensor.count(of: manifest.latents.shape))
        var latents = try HostTensor(shape: manifest.latents.shape, drawn.unit)
        report(.noise(latents))
        var encoded = DrawingTask.Encoded()
        if task.kind != .fromText {
            loading += try await load(.encoder, report)
            encoded = try await task.encode(drawn) { try await moments($0) }
            await doneWith(.encoder)
        }
        let guidance = try task.guidance(
            batch: manifest.guidance.batch, scale: scale, conditional, unconditional, encoded)
        latents = try HostTensor(shape: latents.shape, task.begin(sampler, drawn, encoded))
        loading += try await load(.unet, report)
        let controlNets = request.controls.compactMap(\.component)
        for name in controlNets { loading += try await load(name, report) }
        let context = StepContext(
            guidance: guidance, timesteps: Array(sampler.timesteps[begun...]), controls: request.controls)
        var ahead: (output: HostTensor, start: ContinuousClock.Instant)?
        for index in context.timesteps.indices {
            try Task.checkCancellation()
            let stepStart = ahead?.start ?? ContinuousClock.now
            let output: HostTensor
            if let ahead {
                output = ahead.output
            } else {
                output = try await predict(index, sampler.modelInput(latents.floats), in: context)
            }
            ahead = nil
            let result = try sampler.step(
                modelOutput: output.floats, latents: latents.floats, noise: &generator)
            latents = try HostTensor(
                shape: latents.shape, task.settle(result.latents, sampler, drawn, encoded))
            let denoised = try HostTensor(shape: latents.shape, result.denoised)
            let seconds = stepStart.secondsSince()
            let decoded = request.previews == .decoded ? try await decodePreview(denoised, report) : nil
            let behind = latents
            func show() throws {
                let preview = try decoded.map { try GeneratedPicture(image: $0) } ?? linear?.picture(of: denoised)
                report(
                    .step(
                        Step(
                            index: index, count: context.timesteps.count, timestep: context.timesteps[index],
                            latents: behind,
                            denoised: denoised, modelOutput: output, seconds: seconds, preview: preview)))
            }
            // The engine works on the next step while this one's preview is made and shown. It never gets two
            // requests at a time.
            if request.previews != .none && index + 1 < context.timesteps.count {
                let nextStart = ContinuousClock.now
                let input = sampler.modelInput(behind.floats)
                async let next = predict(index + 1, input, in: context)
                try show()
                ahead = (try await next, nextStart)
            } else {
                try show()
            }
        }
        await doneWith(.unet)
        for name in controlNets { await doneWith(name) }

        try Task.checkCancellation()
        loading += try await load(.decoder, report)
        let decoderStart = ContinuousClock.now
        let image = try await decode(latents)
        let decoderSeconds = decoderStart.secondsSince()
        let engine = try await runner.describe().description
        let finished = try task.finish(
            GeneratedPicture(
                image: image, settings: settings(of: request, steps: steps, scale: scale, engine, task.settings)))
        await doneWith(.decoder)
        let picture = try await checked(finished, request.isChecked, &loading, report)
        let totalSeconds = start.secondsSince() - loading
        report(.picture(picture, decoderSeconds: decoderSeconds, totalSeconds: totalSeconds))
    }

    /// The picture, and in its settings what the safety checker says of it; a black one if that flags it. As it is where
    /// the bundle has none.
    private func checked(
        _ drawn: GeneratedPicture, _ isWanted: Bool, _ loading: inout Double, _ report: @Sendable (Event) -> Void
    ) async throws -> GeneratedPicture {
        guard let safety else { return drawn }
        guard isWanted else { return drawn.adding("safety_checker", "off") }
        loading += try await load(.safetyChecker, report)
        let start = ContinuousClock.now
        let input = ["pixel_values": try safety.pixelValues(drawn)]
        let embedding = try await predict(.safetyChecker, input, output: "image_embeds")
        let verdict = safety.judge(embedding.floats)
        await doneWith(.safetyChecker)
        report(.checked(verdict, seconds: start.secondsSince()))
        return try verdict.isFlagged
            ? drawn.blackened().adding("safety_checker", "flagged") : drawn.adding("safety_checker", "passed")
    }

    /// The constants `request` is walked with. Throws `UsageError` for a sampler that can't walk this model, and for an
    /// eta that it hasn't.
    public func samplerRecord(of request: Request) throws -> SamplerRecord {
        let own = bundle.manifest.sampler
        let record = try request.sampler.map(own.named) ?? own
        return try request.eta.map(record.with(eta:)) ?? record
    }

    /// What stays the same for every step of a run.
    private struct StepContext: Sendable {
        let guidance: ClassifierFreeGuidance
        let timesteps: [Float]
        let controls: [Control]
    }

    /// The guided output of the UNet at one step.
    private func predict(_ index: Int, _ latents: [Float], in context: StepContext) async throws -> HostTensor {
        let latents = try HostTensor(shape: bundle.manifest.latents.shape, latents)
        let embedding = try timeEmbedding(timestep: context.timesteps[index], batch: bundle.manifest.guidance.batch)
        return try await context.guidance(latents: latents, embedding: embedding) { inputs in
            let added = try await residuals(inputs, index, in: context)
            return try await predict(
                .unet, inputs.merging(added) { first, _ in first }, output: "model_output", step: index + 1)
        }
    }

    /// What the UNet's call of `inputs` takes of ControlNets: nothing, if the bundle has none.
    private func residuals(
        _ inputs: [String: HostTensor], _ index: Int, in context: StepContext
    ) async throws -> [String: HostTensor] {
        let names = bundle.manifest.pipeline.control.inputs
        guard !names.isEmpty else { return [:] }
        let taken = inputs.filter { ["latents", "time_embedding", "encoder_hidden_states"].contains($0.key) }
        var found: [(scale: Double, outputs: [String: HostTensor])] = []
        for control in context.controls {
            let scale = control.share(index, of: context.timesteps.count)
            guard scale != 0, let name = control.component else { continue }
            let given = taken.merging(["picture": control.picture]) { first, _ in first }
            found.append((scale, try await outputs(name, given, step: index + 1)))
        }
        return try Control.sum(found, of: try bundle.component(.unet).inputs.filter { names.contains($0.name) })
    }

    /// What steers the UNet beside latents and time, by the name of its input, one row each.
    private func conditions(_ prompt: Prompt, _ scale: Double) async throws -> ClassifierFreeGuidance.Conditions {
        var found: ClassifierFreeGuidance.Conditions = [:]
        for condition in bundle.manifest.pipeline.conditions {
            switch condition {
            case .text(let input, _, _, _, _): found[input] = try await encode(prompt)
            case .guidanceEmbedding(let input, let dimension):
                found[input] = try TimeEmbedding.guidance(scale: scale, dimension: dimension)
            case .concatenated: break  // Of the picture that is given: see `DrawingTask.guidance`.
            case .residuals: break  // Of each call: see `residuals`.
            }
        }
        return found
    }

    /// `text` in the chunks that this bundle's UNet reads. Throws `UsageError` for one that can't be read.
    public func cut(_ text: String, _ syntax: Prompt.Syntax) throws -> Prompt {
        try Prompt(text, syntax, tokenizer: tokenizer, places: bundle.manifest.pipeline.promptChunks)
    }

    /// Hidden states (1, C, 1, S) of a prompt, as the UNet takes them.
    public func encode(_ prompt: Prompt) async throws -> HostTensor {
        var states: [HostTensor] = []
        for chunk in prompt.chunks { states.append(try Prompt.weigh(try await encode(chunk.ids), chunk.weights)) }
        return try Prompt.beside(states, places: bundle.manifest.pipeline.promptChunks)
    }

    /// Hidden states (1, C, 1, S) of one chunk's token ids.
    public func encode(_ tokens: [Int32]) async throws -> HostTensor {
        let ids = try HostTensor(shape: [1, tokens.count], tokens)
        return try await predict(.textEncoder, ["input_ids": ids], output: "encoder_hidden_states")
    }

    /// Means and log variances (1, 2 C, h, w) of the latents of an image (1, 3, H, W), -1 to 1.
    public func moments(_ image: HostTensor) async throws -> HostTensor {
        try await predict(.encoder, ["image": image], output: "moments")
    }

    /// Image (1, 3, H, W), about -1 to 1, of the loop's latents.
    public func decode(_ latents: HostTensor) async throws -> HostTensor {
        let scale = Float(bundle.manifest.latents.scalingFactor)
        let input = try HostTensor(shape: latents.shape, latents.floats.map { $0 / scale })
        return try await predict(.decoder, ["latents": input], output: "image")
    }

    private func predict(
        _ name: ComponentName, _ inputs: [String: HostTensor], output: String, step: Int? = nil
    ) async throws -> HostTensor {
        guard let tensor = try await outputs(name, inputs, step: step)[output] else {
            throw ComponentError.badOutput(name, output: output, expected: "a tensor", found: "none")
        }
        return tensor
    }

    /// All that a component gives, checked: shapes, and no NaN or infinity.
    private func outputs(
        _ name: ComponentName, _ inputs: [String: HostTensor], step: Int?
    ) async throws -> [String: HostTensor] {
        let record = try bundle.component(name)
        try record.check(inputs: inputs, of: name)
        let outputs = try await runner.predict(name, inputs: inputs).outputs
        try Task.checkCancellation()
        try record.check(outputs: outputs, of: name)
        for output in record.outputs {
            let broken = outputs[output.name]?.nonFiniteCount ?? 0
            guard broken == 0 else {
                throw ComponentError.nonFinite(name, output: output.name, step: step, count: broken)
            }
        }
        return outputs
    }

    @discardableResult
    private func load(_ name: ComponentName, _ report: @Sendable (Event) -> Void) async throws -> Double {
        _ = try bundle.component(name)
        try Task.checkCancellation()
        let start = ContinuousClock.now
        report(.loaded(name, seconds: try await runner.load(name).seconds))
        return start.secondsSince()
    }

    private func doneWith(_ name: ComponentName) async {
        if !keepLoaded { await runner.unload(name) }
    }

    private func decodePreview(_ denoised: HostTensor, _ report: @Sendable (Event) -> Void) async throws -> HostTensor {
        let timing = try await runner.load(.decoder)
        if timing.seconds > 0 { report(.loaded(.decoder, seconds: timing.seconds)) }
        return try await decode(denoised)
    }

    private func fitPreview(_ report: @Sendable (Event) -> Void) async throws -> LinearPreview {
        try await load(.decoder, report)
        let fitting = try LinearPreview.Fitting(bundle.manifest.latents)
        let preview = try fitting.solve(image: try await decode(fitting.latents))
        await doneWith(.decoder)
        return preview
    }

    private func settings(
        of request: Request, steps: Int, scale: Double, _ engine: String, _ ofTask: [OrderedJSON.Member]
    ) -> [OrderedJSON.Member] {
        let manifest = bundle.manifest
        let dropped = [
            ("prompt_tokens_dropped", request.prompt), ("negative_prompt_tokens_dropped", request.negativePrompt),
        ].map { (name: $0, count: (try? cut($1, request.syntax))?.dropped ?? 0) }
        let eta = request.eta.map { [OrderedJSON.Member("eta", .number($0))] } ?? []
        let settings: [OrderedJSON.Member] = eta + [
            .init("guidance_scale", .number(scale)),
            .init("model", .string(manifest.name)),
            .init("negative_prompt", .string(request.negativePrompt)),
            .init("prompt", .string(request.prompt)),
            .init("runtime", .string(engine)),
            .init("sampler", .string(((try? samplerRecord(of: request)) ?? manifest.sampler).name)),
            .init("seed", Int(exactly: request.seed).map(OrderedJSON.integer) ?? .string(String(request.seed))),
            .init("source_sha256", .string(manifest.source.sha256)),
            .init("steps", .integer(steps)),
        ]
        let controls = request.controls.flatMap { control -> [OrderedJSON.Member] in
            let name = "control_\(control.name)"
            return [("scale", control.scale), ("start", control.start), ("end", control.end)].map {
                .init("\(name)_\($0)", .number($1))
            }
        }
        let syntax = request.syntax == .plain ? nil : OrderedJSON.Member("prompt_syntax", .string(request.syntax.rawValue))
        return settings + ofTask + controls + (syntax.map { [$0] } ?? [])
            + dropped.filter { $0.count > 0 }.map { .init($0.name, .integer($0.count)) }
    }
}

extension ContinuousClock.Instant {
    /// Seconds from this instant to now.
    public func secondsSince() -> Double {
        let (seconds, attoseconds) = duration(to: .now).components
        return Double(seconds) + Double(attoseconds) * 1e-18
    }
}
