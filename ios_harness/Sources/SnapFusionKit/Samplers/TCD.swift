/// Trajectory consistency distillation's strategic stochastic sampling (arXiv 2402.19159, algorithm 2).
public struct TCD: Sampler {
    public let record: ConsistencyRecord
    public let timesteps: [Float]
    private let walked: [Int]
    private let alphasCumprod: [Float]
    private var index = 0

    /// Throws `UsageError` for steps that can't be taken.
    public init(_ record: ConsistencyRecord, steps: Int) throws {
        self.record = record
        walked = try record.distilledTimesteps(steps)
        timesteps = walked.map(Float.init)
        alphasCumprod = try NoiseSchedule.alphasCumprod(record.process)
        try NoiseSchedule.check(signal: alphasCumprod, at: walked[0], record.process)
    }

    public mutating func step(
        modelOutput: [Float], latents: [Float], noise: inout TorchGenerator
    ) throws -> SamplerStep {
        try check(index, modelOutput, latents)
        let isLast = index + 1 == walked.count
        let following = isLast ? 0 : walked[index + 1]
        // float32 as in diffusers, where a product that is whole in one precision may not be in the other.
        let below = Int((Float(1 - record.eta) * Float(following)).rounded(.down))
        let alpha = Double(alphasCumprod[walked[index]])
        let (alphaFollowing, alphaBelow) = (Double(alphasCumprod[following]), Double(alphasCumprod[below]))
        index += 1
        let kind = record.process.predictionType
        let (signal, amplitude) = (alpha.squareRoot(), (1 - alpha).squareRoot())
        let clean = Prediction.denoised(kind, modelOutput, latents, alpha: signal, sigma: amplitude)
        let epsilon = Prediction.noise(kind, modelOutput, latents, alpha: signal, sigma: amplitude)
        var result = Latents.sum(alphaBelow.squareRoot(), clean, (1 - alphaBelow).squareRoot(), epsilon)
        if record.eta > 0 && !isLast {
            let kept = alphaFollowing / alphaBelow
            result = Latents.sum(
                kept.squareRoot(), result, (1 - kept).squareRoot(), noise.normal(count: result.count))
        }
        return SamplerStep(latents: result, denoised: clean)
    }
}
