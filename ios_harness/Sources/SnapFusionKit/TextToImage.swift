import Foundation

/// What to draw. Nil takes the model's default.
public struct Request: Sendable, Equatable {
    public var prompt: String
    public var negativePrompt: String
    public var seed: UInt64
    public var steps: Int?
    public var guidanceScale: Double?
    /// Whether and how each step carries a picture of what it predicts.
    public var previews: Previews

    public enum Previews: Sendable {
        case none
        /// At the resolution of the latents, by an affine map; costs one decoder call before the loop.
        case linear
        /// By the decoder, one call a step; needs it beside the UNet in memory.
        case decoded
    }

    public init(
        prompt: String, negativePrompt: String = "", seed: UInt64 = 0, steps: Int? = nil, guidanceScale: Double? = nil,
        previews: Previews = .none
    ) {
        self.prompt = prompt
        self.negativePrompt = negativePrompt
        self.seed = seed
        self.steps = steps
        self.guidanceScale = guidanceScale
        self.previews = previews
    }
}

/// One step of the loop.
public struct Step: Sendable {
    /// 0 to `count` - 1.
    public let index: Int
    public let count: Int
    public let timestep: Int
    /// The latents behind this step, the picture it predicts and the guided output, each (1, C, H, W).
    public let latents: Tensor
    public let denoised: Tensor
    public let modelOutput: Tensor
    /// Wall time of the step.
    public let seconds: Double
    /// The picture this step predicts, if the request asked for previews.
    public let preview: Picture?
}

/// What a run tells as it goes on, in this order.
public enum Event: Sendable {
    /// A component is ready; the seconds it took to load, 0 if it was loaded already.
    case loaded(ComponentName, seconds: Double)
    /// The prompt's token ids, and the time the text encoder took for both prompts.
    case encoded(tokens: [Int32], negativeTokens: [Int32]?, seconds: Double)
    /// The noise the loop starts from.
    case noise(Tensor)
    case step(Step)
    /// The picture; the time of the decoder, and of everything from the prompt to the pixels but loading.
    case picture(Picture, decoderSeconds: Double, totalSeconds: Double)
}

/// The pipeline of one bundle over any runner.
///
/// Components are loaded on first use. With `keepLoaded` false each is freed as soon as its part is done, so that only
/// one is in memory at a time. A run that fails or is cancelled frees all of them.
public struct TextToImage: Sendable {
    public let bundle: ModelBundle
    public let runner: any ComponentRunner
    public let tokenizer: Tokenizer
    public let scheduler: DDIM
    public let timeEmbedding: TimeEmbedding
    public let keepLoaded: Bool

    /// Throws `FileFormatError` or `UsageError` if the bundle's tokenizer or constants can't be used.
    public init(bundle: ModelBundle, runner: any ComponentRunner, keepLoaded: Bool = true) throws {
        self.bundle = bundle
        self.runner = runner
        self.keepLoaded = keepLoaded
        tokenizer = try Tokenizer(bundle: bundle)
        scheduler = try DDIM(bundle.manifest.scheduler)
        timeEmbedding = try TimeEmbedding(bundle.manifest.timeEmbedding)
    }

    /// Draws `request`. The request is checked before anything is loaded. Ending the iteration early, or cancelling
    /// the task that iterates, stops the run and frees the components.
    public func run(_ request: Request) -> AsyncThrowingStream<Event, any Error> {
        AsyncThrowingStream { continuation in
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
    }

    /// Draws `request` and returns the picture.
    public func picture(_ request: Request) async throws -> Picture {
        var drawn: Picture?
        for try await event in run(request) {
            if case .picture(let picture, _, _) = event { drawn = picture }
        }
        guard let drawn else { throw CancellationError() }
        return drawn
    }

    private func draw(_ request: Request, report: @Sendable (Event) -> Void) async throws {
        let manifest = bundle.manifest
        let steps = request.steps ?? manifest.scheduler.defaultSteps
        let scale = request.guidanceScale ?? manifest.guidance.defaultScale
        let timesteps = try scheduler.timesteps(steps: steps)
        try Guidance.check(scale: scale)
        if request.previews == .decoded && !keepLoaded {
            throw UsageError(
                "decoded previews need the decoder beside the UNet; keep the components loaded, or take linear ones.")
        }
        let linear = request.previews == .linear ? try await fitPreview(report) : nil

        try await load(.textEncoder, report)
        let start = ContinuousClock.now
        var loading = 0.0
        let tokens = tokenizer.encode(request.prompt)
        let negative = Guidance.isGuided(scale) ? tokenizer.encode(request.negativePrompt) : nil
        let encodingStart = ContinuousClock.now
        let conditional = try await encode(tokens)
        var unconditional: Tensor?
        if let negative { unconditional = try await encode(negative) }
        report(.encoded(tokens: tokens, negativeTokens: negative, seconds: encodingStart.secondsSince()))
        await doneWith(.textEncoder)

        let guidance = try Guidance(
            batch: manifest.guidance.batch, scale: scale, conditional: conditional, unconditional: unconditional)
        var generator = TorchGenerator(seed: request.seed)
        var latents = try Tensor(
            shape: manifest.latents.shape, generator.normal(count: Tensor.count(of: manifest.latents.shape)))
        report(.noise(latents))
        loading += try await load(.unet, report)
        for (index, timestep) in timesteps.enumerated() {
            try Task.checkCancellation()
            let stepStart = ContinuousClock.now
            let embedding = try timeEmbedding(timestep: timestep, batch: manifest.guidance.batch)
            let output = try await guidance(latents: latents, embedding: embedding) { inputs in
                try await predict(.unet, inputs, output: "model_output", step: index + 1)
            }
            let result = try scheduler.step(
                modelOutput: output.floats, timestep: timestep, latents: latents.floats, steps: steps)
            latents = try Tensor(shape: latents.shape, result.latents)
            let denoised = try Tensor(shape: latents.shape, result.predictedOriginal)
            let seconds = stepStart.secondsSince()
            let preview =
                request.previews == .decoded ? try await preview(denoised, report) : linear?.picture(of: denoised)
            report(
                .step(
                    Step(
                        index: index, count: timesteps.count, timestep: timestep, latents: latents, denoised: denoised,
                        modelOutput: output, seconds: seconds, preview: preview)))
        }
        await doneWith(.unet)

        try Task.checkCancellation()
        loading += try await load(.decoder, report)
        let decoderStart = ContinuousClock.now
        let image = try await decode(latents)
        let decoderSeconds = decoderStart.secondsSince()
        let engine = try await runner.describe().description
        let picture = try Picture(image: image, settings: settings(of: request, steps: steps, scale: scale, engine))
        let totalSeconds = start.secondsSince() - loading
        await doneWith(.decoder)
        report(.picture(picture, decoderSeconds: decoderSeconds, totalSeconds: totalSeconds))
    }

    /// Hidden states (1, C, 1, S) of token ids.
    public func encode(_ tokens: [Int32]) async throws -> Tensor {
        let ids = try Tensor(shape: [1, tokens.count], tokens)
        return try await predict(.textEncoder, ["input_ids": ids], output: "encoder_hidden_states")
    }

    /// Image (1, 3, H, W), about -1 to 1, of the loop's latents.
    public func decode(_ latents: Tensor) async throws -> Tensor {
        let scale = Float(bundle.manifest.latents.scalingFactor)
        let input = try Tensor(shape: latents.shape, latents.floats.map { $0 / scale })
        return try await predict(.decoder, ["latents": input], output: "image")
    }

    private func predict(
        _ name: ComponentName, _ inputs: [String: Tensor], output: String, step: Int? = nil
    ) async throws -> Tensor {
        let record = try bundle.component(name)
        try record.check(inputs: inputs, of: name)
        let outputs = try await runner.predict(name, inputs: inputs).outputs
        try Task.checkCancellation()
        try record.check(outputs: outputs, of: name)
        guard let tensor = outputs[output] else {
            throw ComponentError.badOutput(name, output: output, expected: "a tensor", found: "none")
        }
        let broken = tensor.nonFiniteCount
        guard broken == 0 else {
            throw ComponentError.nonFinite(name, output: output, step: step, count: broken)
        }
        return tensor
    }

    @discardableResult
    private func load(_ name: ComponentName, _ report: @Sendable (Event) -> Void) async throws -> Double {
        _ = try bundle.component(name)
        try Task.checkCancellation()
        let start = ContinuousClock.now
        report(.loaded(name, seconds: try await runner.load(name)))
        return start.secondsSince()
    }

    private func doneWith(_ name: ComponentName) async {
        if !keepLoaded { await runner.unload(name) }
    }

    private func preview(_ denoised: Tensor, _ report: @Sendable (Event) -> Void) async throws -> Picture {
        if try await runner.load(.decoder) > 0 { report(.loaded(.decoder, seconds: 0)) }
        return try Picture(image: try await decode(denoised))
    }

    private func fitPreview(_ report: @Sendable (Event) -> Void) async throws -> LinearPreview {
        try await load(.decoder, report)
        let fitting = try LinearPreview.Fitting(bundle.manifest.latents)
        let preview = try fitting.solve(image: try await decode(fitting.latents))
        await doneWith(.decoder)
        return preview
    }

    private func settings(
        of request: Request, steps: Int, scale: Double, _ engine: String
    ) -> [JSONValue.Member] {
        let manifest = bundle.manifest
        let dropped = tokenizer.tokenize(request.prompt).dropped
        let settings: [JSONValue.Member] = [
            .init("guidance_scale", .number(scale)),
            .init("model", .string(manifest.name)),
            .init("negative_prompt", .string(request.negativePrompt)),
            .init("prompt", .string(request.prompt)),
            .init("runtime", .string(engine)),
            .init("scheduler", .string("ddim")),
            .init("seed", Int(exactly: request.seed).map(JSONValue.integer) ?? .string(String(request.seed))),
            .init("source_sha256", .string(manifest.source.sha256)),
            .init("steps", .integer(steps)),
        ]
        return settings + (dropped > 0 ? [.init("prompt_tokens_dropped", .integer(dropped))] : [])
    }
}

extension ContinuousClock.Instant {
    /// Seconds from this instant to now.
    public func secondsSince() -> Double {
        let (seconds, attoseconds) = duration(to: .now).components
        return Double(seconds) + Double(attoseconds) * 1e-18
    }
}
