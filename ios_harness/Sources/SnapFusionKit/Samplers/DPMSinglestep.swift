/// DPM-Solver++ singlestep of second order (arXiv 2211.01095, algorithm 1): steps of first and second order by turns.
public struct DPMSinglestep: Sampler {
    public let record: DPMSolverRecord
    public let timesteps: [Float]
    private let points: [SolverPoint]
    private var index = 0
    private var begun: (latents: [Float], denoised: [Float])?

    /// Throws `UsageError` for steps that can't be taken.
    public init(_ record: DPMSolverRecord, steps: Int) throws {
        self.record = record
        let levels = try NoiseSchedule.solverLevels(
            record.process, steps, record.schedule, record.finalSigma, lambdaMin: record.lambdaMin)
        timesteps = levels.timesteps
        points = levels.sigmas.map(SolverPoint.init)
    }

    private var isSecond: Bool {
        guard record.order > 1, index % 2 == 1 else { return false }
        return index + 1 < timesteps.count || !(record.lowerOrderFinal || record.finalSigma == .zero)
    }

    public mutating func begin(at call: Int) { index = call }

    public var amplitudes: (signal: Double, noise: Double)? {
        index < timesteps.count ? (points[index].alpha, points[index].sigma) : nil
    }

    public mutating func step(
        modelOutput: [Float], latents: [Float], noise: inout TorchGenerator
    ) throws -> SamplerStep {
        try check(index, modelOutput, latents)
        let (here, end) = (points[index], points[index + 1])
        let clean = Prediction.denoised(
            record.process.predictionType, modelOutput, latents, alpha: here.alpha, sigma: here.sigma)
        var result: [Float]
        let noiseFactor: Double
        if isSecond, let begun {
            let update = SolverUpdate(start: points[index - 1], end: end, record: record)
            let difference = Latents.difference(
                update.h / (here.lambda - update.start.lambda), clean, begun.denoised)
            result = update.secondOrder(begun.latents, begun.denoised, difference)
            noiseFactor = update.noise
        } else {
            let update = SolverUpdate(start: here, end: end, record: record)
            begun = (latents, clean)
            result = update.firstOrder(latents, clean)
            noiseFactor = update.noise
        }
        if record.stochastic { result = Latents.adding(result, noiseFactor, noise.normal(count: result.count)) }
        index += 1
        return SamplerStep(latents: result, denoised: clean)
    }
}
