/// Heun's method in the noise level (arXiv 2206.00364, algorithm 1 with no churn): two calls a step, one for the last.
public struct Heun: Sampler {
    public let record: HeunRecord
    private var walk: LevelWalk
    private var begun: (latents: [Float], slope: [Float])?

    /// Throws `UsageError` for steps that can't be taken.
    public init(_ record: HeunRecord, steps: Int) throws {
        self.record = record
        guard !record.process.rescaleBetasZeroSNR else {
            throw UsageError(
                "Heun's method can't start from pure noise, as this model does; take another sampler, euler say.")
        }
        let once = try NoiseSchedule.levels(record.process, steps, record.schedule)
        let twice = NoiseSchedule.Levels(
            timesteps: Heun.doubled(once.timesteps, keepLast: false), sigmas: Heun.doubled(once.sigmas, keepLast: true))
        walk = LevelWalk(twice, record.process.timestepSpacing)
    }

    /// Every value twice but the first, and the last if it is to be kept.
    private static func doubled<Value>(_ values: [Value], keepLast: Bool) -> [Value] {
        var result: [Value] = []
        for (index, value) in values.enumerated() {
            result.append(value)
            if index > 0 && !(keepLast && index == values.count - 1) { result.append(value) }
        }
        return result
    }

    public var timesteps: [Float] { walk.timesteps }
    public var noiseScale: Float { walk.noiseScale }
    public func modelInput(_ latents: [Float]) -> [Float] { walk.modelInput(latents) }
    public var callsPerStep: Int { 2 }
    public mutating func begin(at call: Int) { walk.index = call }
    public var amplitudes: (signal: Double, noise: Double)? { walk.amplitudes }

    public mutating func step(
        modelOutput: [Float], latents: [Float], noise: inout TorchGenerator
    ) throws -> SamplerStep {
        try check(walk.index, modelOutput, latents)
        let (sigma, following) = (walk.here, walk.following)
        let clean = Prediction.denoised(record.process.predictionType, modelOutput, latents, level: sigma)
        let divisor = Float(sigma)
        let slope = zip(latents, clean).map { ($0 - $1) / divisor }
        defer { walk.index += 1 }
        guard let first = begun else {
            if walk.index + 1 < timesteps.count { begun = (latents, slope) }
            return SamplerStep(latents: Latents.adding(latents, following - sigma, slope), denoised: clean)
        }
        begun = nil
        let mean = zip(first.slope, slope).map { ($0 + $1) / 2 }
        let distance = sigma - walk.sigmas[walk.index - 1]
        return SamplerStep(latents: Latents.adding(first.latents, distance, mean), denoised: clean)
    }
}
