/// Latent consistency models' multistep sampling (arXiv 2310.04378, algorithm 3).
public struct LCM: Sampler {
    /// Standard deviation of the data, as the boundary factors take it.
    private static let sigmaData = 0.5

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
        let (alpha, sigma) = walk.powers(index)
        var clean = Prediction.denoised(
            record.process.predictionType, modelOutput, latents, alpha: alpha, sigma: sigma)
        if record.clipSample {
            let bound = Float(record.clipSampleRange)
            clean = clean.map { min(max($0, -bound), bound) }
        }
        let scaled = Double(walk.walked[index]) * record.timestepScaling
        let spread = scaled * scaled + LCM.sigmaData * LCM.sigmaData
        let consistent = Latents.sum(
            scaled / spread.squareRoot(), clean, LCM.sigmaData * LCM.sigmaData / spread, latents)
        index += 1
        guard index < timesteps.count else { return SamplerStep(latents: consistent, denoised: consistent) }
        let following = walk.powers(index)
        let noised = Latents.sum(
            following.alpha, consistent, following.sigma, noise.normal(count: latents.count))
        return SamplerStep(latents: noised, denoised: consistent)
    }
}
