/// A walk whose latents are x_0 + sigma e: `sigmas` are the levels of each call, and the last one reached.
struct LevelWalk: Sendable {
    let timesteps: [Float]
    let sigmas: [Double]
    let noiseScale: Float
    var index = 0

    init(_ levels: NoiseSchedule.Levels, _ spacing: DiffusionRecord.TimestepSpacing) {
        timesteps = levels.timesteps
        sigmas = levels.sigmas
        let largest = levels.sigmas.max() ?? 1
        noiseScale = Float(spacing == .leading ? (largest * largest + 1).squareRoot() : largest)
    }

    /// This call's level and the next one.
    var here: Double { sigmas[index] }
    var following: Double { sigmas[index + 1] }

    /// Amplitudes of signal and noise before this call; nil behind the last.
    var amplitudes: (signal: Double, noise: Double)? { index < timesteps.count ? (1, here) : nil }

    /// Latents scaled to variance 1.
    func modelInput(_ latents: [Float]) -> [Float] {
        let scale = Float((here * here + 1).squareRoot())
        return latents.map { $0 / scale }
    }
}

/// Euler's method in the noise level (arXiv 2206.00364, algorithm 1 without its second-order part).
public struct Euler: Sampler {
    public let record: EulerRecord
    private var walk: LevelWalk

    /// Throws `UsageError` for steps that can't be taken.
    public init(_ record: EulerRecord, steps: Int) throws {
        self.record = record
        let levels = try NoiseSchedule.levels(
            record.process, steps, record.schedule, ends: (record.sigmaMax, record.sigmaMin), final: record.finalSigma)
        walk = LevelWalk(levels, record.process.timestepSpacing)
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
        let clean = Prediction.denoised(record.process.predictionType, modelOutput, latents, level: sigma)
        let slope = Float((following - sigma) / sigma)
        return SamplerStep(latents: zip(latents, clean).map { $0 + slope * ($0 - $1) }, denoised: clean)
    }
}
