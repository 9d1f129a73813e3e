/// Classifier-free guidance (arXiv 2207.12598): unconditional + scale · (conditional − unconditional).
///
/// With a UNet of batch 2 one call, rows (unconditional, conditional); with batch 1 two calls. At a scale of 1 or less
/// there is no unconditional prediction: a UNet of batch 1 is called once; one of batch 2, whose shape is fixed, gets
/// the conditional text in both rows and its first row is used.
public struct ClassifierFreeGuidance: Sendable {
    public let batch: Int
    public let scale: Float
    public let conditional: HostTensor
    /// The negative prompt's hidden states; nil if the scale needs none.
    public let unconditional: HostTensor?
    /// What the UNet gets as hidden states, call by call: made once, so that a runner can keep its own copy.
    private let states: [HostTensor]

    /// A scale is finite and not negative. Throws `UsageError`.
    public static func check(scale: Double) throws {
        guard scale.isFinite, scale >= 0 else {
            throw UsageError("the guidance scale \(scale) makes no sense; expected 1 (none) or more, 7.5 say.")
        }
    }

    /// Whether `scale` needs the unconditional prediction.
    public static func isGuided(_ scale: Double) -> Bool { scale > 1 }

    /// Hidden states have the shape (1, C, 1, S).
    public init(batch: Int, scale: Double, conditional: HostTensor, unconditional: HostTensor?) throws {
        self.batch = batch
        self.scale = Float(scale)
        self.conditional = conditional
        self.unconditional = unconditional
        switch (batch, unconditional) {
        case (1, nil): states = [conditional]
        case (1, let unconditional?): states = [unconditional, conditional]
        case (2, nil): states = [try HostTensor.concatenating([conditional, conditional])]
        case (2, let unconditional?): states = [try HostTensor.concatenating([unconditional, conditional])]
        default: throw UsageError("a guidance batch of \(batch) is neither 1 nor 2.")
        }
    }

    /// How often the UNet is called for one step.
    public var calls: Int { states.count }

    /// The guided output (1, C, H, W) for latents of that shape. `embedding` is of the UNet's batch.
    ///
    /// - Parameter predict: one call of the UNet, from its inputs to its output.
    public func callAsFunction(
        latents: HostTensor, embedding: HostTensor, predict: @Sendable ([String: HostTensor]) async throws -> HostTensor
    ) async throws -> HostTensor {
        let rows = batch == 2 ? try HostTensor.concatenating([latents, latents]) : latents
        var outputs: [HostTensor] = []
        for states in states {
            let output = try await predict([
                "latents": rows, "time_embedding": embedding, "encoder_hidden_states": states,
            ])
            outputs += try output.split(into: batch)
        }
        guard unconditional != nil else { return outputs[0] }
        let combined = ClassifierFreeGuidance.combine(outputs[0].floats, outputs[1].floats, scale: scale)
        return try HostTensor(shape: latents.shape, combined)
    }

    /// unconditional + scale · (conditional − unconditional), in float32.
    public static func combine(_ unconditional: [Float], _ conditional: [Float], scale: Float) -> [Float] {
        zip(unconditional, conditional).map { $0 + scale * ($1 - $0) }
    }
}
