/// Ancestral sampling with Euler steps: each goes below the next level, and noise goes up to it.
public struct EulerAncestral: Sampler {
    public let record: EulerAncestralRecord
    private var walk: LevelWalk

    /// Throws `UsageError` for steps that can't be taken.
    public init(_ record: EulerAncestralRecord, steps: Int) throws {
        self.record = record
        walk = LevelWalk(try NoiseSchedule.levels(record.process, steps), record.process.timestepSpacing)
    }

    public var timesteps: [Float] { walk.timesteps }
    public var noiseScale: Float { walk.noiseScale }
    public func modelInput(_ latents: [Float]) -> [Float] { walk.modelInput(latents) }
    public mutating func begin(at call: Int) { walk.index = call }
    public var amplitudes: (signal: Double, noise: Double)? { walk.amplitudes }

    public mutating func step(
        modelOutput: [Float], latents: [Float], noise: inout TorchGenerator
    ) throws -> SamplerStep {
        try check(walk.index, modelOutput, latents)
        let (sigma, following) = (walk.here, walk.following)
        walk.index += 1
        let (from, to) = (sigma * sigma, following * following)
        let up = (to * (from - to) / from).squareRoot()
        let down = (to - up * up).squareRoot()
        let clean = Prediction.denoised(record.process.predictionType, modelOutput, latents, level: sigma)
        let slope = Float((down - sigma) / sigma)
        let straight = zip(latents, clean).map { $0 + slope * ($0 - $1) }
        return SamplerStep(
            latents: Latents.adding(straight, up, noise.normal(count: latents.count)), denoised: clean)
    }
}
