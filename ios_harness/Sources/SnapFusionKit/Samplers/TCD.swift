/// Trajectory consistency distillation's strategic stochastic sampling (arXiv 2402.19159, algorithm 2).
public struct TCD: Sampler {
    private let walk: DistilledWalk
    private var index = 0

    public var record: ConsistencyRecord { walk.record }
    public var timesteps: [Float] { walk.timesteps }

    /// Throws `UsageError` for steps that can't be taken.
    ///
    /// - Parameter share: of the distillation's timesteps, the least noisy ones, that are walked.
    public init(_ record: ConsistencyRecord, steps: Int, share: Double = 1) throws {
        walk = try DistilledWalk(record, steps: steps, share: share)
    }

    public mutating func begin(at call: Int) { index = call }

    public var amplitudes: (signal: Double, noise: Double)? { walk.amplitudes(index) }

    public mutating func step(
        modelOutput: [Float], latents: [Float], noise: inout TorchGenerator
    ) throws -> SamplerStep {
        try check(index, modelOutput, latents)
        let isLast = index + 1 == timesteps.count
        let following = isLast ? 0 : walk.walked[index + 1]
        // float32 as in diffusers, where a product that is whole in one precision may not be in the other.
        let below = Int((Float(1 - record.eta) * Float(following)).rounded(.down))
        let (alpha, sigma) = walk.powers(index)
        let (alphaFollowing, alphaBelow) = (Double(walk.alphasCumprod[following]), Double(walk.alphasCumprod[below]))
        index += 1
        let kind = record.process.predictionType
        let clean = Prediction.denoised(kind, modelOutput, latents, alpha: alpha, sigma: sigma)
        let epsilon = Prediction.noise(kind, modelOutput, latents, alpha: alpha, sigma: sigma)
        var result = Latents.sum(alphaBelow.squareRoot(), clean, (1 - alphaBelow).squareRoot(), epsilon)
        if record.eta > 0 && !isLast {
            let kept = alphaFollowing / alphaBelow
            result = Latents.sum(
                kept.squareRoot(), result, (1 - kept).squareRoot(), noise.normal(count: result.count))
        }
        return SamplerStep(latents: result, denoised: clean)
    }
}
