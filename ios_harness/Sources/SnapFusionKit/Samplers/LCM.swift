extension ConsistencyRecord {
    /// `steps` of the distillation's timesteps, from its last one on, falling. Throws `UsageError`.
    func distilledTimesteps(_ steps: Int) throws -> [Int] {
        try NoiseSchedule.check(steps: steps, process)
        guard steps <= distilledSteps, distilledSteps <= process.trainTimesteps else {
            throw UsageError(
                "expected 1 to \(distilledSteps) steps, those this sampler's model was distilled on; found \(steps).")
        }
        let distance = process.trainTimesteps / distilledSteps
        return (0..<steps).map { step in
            let place = Int((Double(distilledSteps) / Double(steps) * Double(step)).rounded(.down))
            return (distilledSteps - place) * distance - 1
        }
    }
}

/// Latent consistency models' multistep sampling (arXiv 2310.04378, algorithm 3).
public struct LCM: Sampler {
    /// Standard deviation of the data, as the boundary factors take it.
    private static let sigmaData = 0.5

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
        let alpha = Double(alphasCumprod[walked[index]])
        var clean = Prediction.denoised(
            record.process.predictionType, modelOutput, latents, alpha: alpha.squareRoot(),
            sigma: (1 - alpha).squareRoot())
        if record.clipSample {
            let bound = Float(record.clipSampleRange)
            clean = clean.map { min(max($0, -bound), bound) }
        }
        let scaled = Double(walked[index]) * record.timestepScaling
        let spread = scaled * scaled + LCM.sigmaData * LCM.sigmaData
        let consistent = Latents.sum(
            scaled / spread.squareRoot(), clean, LCM.sigmaData * LCM.sigmaData / spread, latents)
        index += 1
        guard index < walked.count else { return SamplerStep(latents: consistent, denoised: consistent) }
        let following = Double(alphasCumprod[walked[index]])
        let noised = Latents.sum(
            following.squareRoot(), consistent, (1 - following).squareRoot(), noise.normal(count: latents.count))
        return SamplerStep(latents: noised, denoised: consistent)
    }
}
