/// DPM-Solver++ multistep (arXiv 2211.01095, algorithm 2), as an ODE and as an SDE: earlier calls give differences.
public struct DPMMultistep: Sampler {
    /// Runs under this many steps end in lower orders, if the record says so.
    private static let fewSteps = 15

    public let record: DPMSolverRecord
    public let timesteps: [Float]
    private let points: [SolverPoint]
    private var index = 0
    private var denoised: [[Float]] = []

    /// Throws `UsageError` for steps that can't be taken.
    public init(_ record: DPMSolverRecord, steps: Int) throws {
        self.record = record
        let levels = try NoiseSchedule.solverLevels(
            record.process, steps, record.schedule, record.finalSigma, lambdaMin: record.lambdaMin)
        timesteps = levels.timesteps
        points = levels.sigmas.map(SolverPoint.init)
    }

    private var order: Int {
        let left = timesteps.count - index
        let few = record.lowerOrderFinal && timesteps.count < DPMMultistep.fewSteps
        let order = min(record.order, denoised.count)
        let goesNowhere = points[index + 1].sigma == 0 || points[index + 1].sigma == points[index].sigma
        if left == 1 && (record.eulerAtFinal || few || goesNowhere) { return 1 }
        return left == 2 && few ? min(order, 2) : order
    }

    public mutating func begin(at call: Int) { index = call }

    public var amplitudes: (signal: Double, noise: Double)? {
        index < timesteps.count ? (points[index].alpha, points[index].sigma) : nil
    }

    public mutating func step(
        modelOutput: [Float], latents: [Float], noise: inout TorchGenerator
    ) throws -> SamplerStep {
        try check(index, modelOutput, latents)
        let update = SolverUpdate(start: points[index], end: points[index + 1], record: record)
        let clean = Prediction.denoised(
            record.process.predictionType, modelOutput, latents, alpha: update.start.alpha, sigma: update.start.sigma)
        denoised = denoised.suffix(record.order - 1) + [clean]
        var result: [Float]
        switch order {
        case 1: result = update.firstOrder(latents, clean)
        case 2: result = update.secondOrder(latents, clean, slope(0, update.h))
        default: result = thirdOrder(update, latents, clean)
        }
        if record.stochastic { result = Latents.adding(result, update.noise, noise.normal(count: result.count)) }
        index += 1
        return SamplerStep(latents: result, denoised: clean)
    }

    /// Of two calls in lambda, the later one `age` calls ago.
    private func distance(_ age: Int) -> Double { points[index - age].lambda - points[index - age - 1].lambda }

    /// Difference of x_0 between those two calls, for a distance h.
    private func slope(_ age: Int, _ h: Double) -> [Float] {
        let last = denoised.count - 1 - age
        return Latents.difference(h / distance(age), denoised[last], denoised[last - 1])
    }

    private func thirdOrder(_ update: SolverUpdate, _ x: [Float], _ clean: [Float]) -> [Float] {
        let (r0, r1) = (distance(0) / update.h, distance(1) / update.h)
        let slope = slope(0, update.h)
        let bend = Latents.difference(1 / (r0 + r1), slope, self.slope(1, update.h))
        let (ofSlope, ofBend) = update.third
        let corrected = Latents.adding(slope, r0, bend)
        return Latents.adding(Latents.adding(update.firstOrder(x, clean), ofSlope, corrected), ofBend, bend)
    }
}
