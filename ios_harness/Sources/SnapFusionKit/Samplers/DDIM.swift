/// DDIM (arXiv 2010.02502, equation 12), with all constants from the manifest and all numbers float32.
public struct DDIM: Sampler {
    public let record: DDIMRecord
    public let timesteps: [Float]
    /// Cumulative products of 1 - beta, in float32 as torch stores them.
    public let alphasCumprod: [Float]
    private let walked: [Int]
    private let earlier: [Int]
    private var index = 0

    /// Throws `UsageError` if the constants make no schedule, or `steps` can't be taken.
    public init(_ record: DDIMRecord, steps: Int) throws {
        self.record = record
        alphasCumprod = try NoiseSchedule.alphasCumprod(record.process)
        walked = try NoiseSchedule.walked(record.process, steps)
        earlier = NoiseSchedule.earlier(record.process, walked)
        timesteps = walked.map(Float.init)
        try NoiseSchedule.check(signal: alphasCumprod, at: walked[0], record.process)
    }

    public mutating func begin(at call: Int) { index = call }

    public var amplitudes: (signal: Double, noise: Double)? {
        guard index < walked.count else { return nil }
        let alpha = Double(alphasCumprod[walked[index]])
        return (alpha.squareRoot(), (1 - alpha).squareRoot())
    }

    public mutating func step(
        modelOutput: [Float], latents: [Float], noise generator: inout TorchGenerator
    ) throws -> SamplerStep {
        try check(index, modelOutput, latents)
        let alpha = alphasCumprod[walked[index]]
        let final = record.setAlphaToOne ? 1 : alphasCumprod[0]
        let alphaEarlier = earlier[index] >= 0 ? alphasCumprod[earlier[index]] : final
        index += 1
        let (a, b) = (alpha.squareRoot(), (1 - alpha).squareRoot())
        var deviation: Float = 0
        if record.eta != 0 {
            let variance = (1 - alphaEarlier) / (1 - alpha) * (1 - alpha / alphaEarlier)
            deviation = Float(record.eta) * variance.squareRoot()
        }
        let aEarlier = alphaEarlier.squareRoot()
        let bEarlier =
            record.eta == 0
            ? (1 - alphaEarlier).squareRoot() : max(1 - alphaEarlier - deviation * deviation, 0).squareRoot()
        let drawn = record.eta == 0 ? [] : generator.normal(count: latents.count)
        let bound = Float(record.clipSampleRange)
        var result = [Float](repeating: 0, count: latents.count)
        var denoised = result
        for index in latents.indices {
            let (x, output) = (latents[index], modelOutput[index])
            var clean: Float
            let noise: Float
            switch record.process.predictionType {
            case .epsilon: (clean, noise) = ((x - b * output) / a, output)
            case .velocity: (clean, noise) = (a * x - b * output, a * output + b * x)
            case .sample: (clean, noise) = (output, (x - a * output) / b)
            }
            if record.clipSample { clean = min(max(clean, -bound), bound) }
            denoised[index] = clean
            result[index] = aEarlier * clean + bEarlier * noise
            if record.eta != 0 { result[index] += deviation * drawn[index] }
        }
        return SamplerStep(latents: result, denoised: denoised)
    }
}
