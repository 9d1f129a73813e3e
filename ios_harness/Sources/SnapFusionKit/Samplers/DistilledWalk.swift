/// What the samplers of distilled models share: a walk over some of the distillation's timesteps.
struct DistilledWalk: Sendable {
    let record: ConsistencyRecord
    /// Falling, from the distillation's last timestep on.
    let walked: [Int]
    let timesteps: [Float]
    /// Cumulative products of 1 - beta, in float32 as torch stores them.
    let alphasCumprod: [Float]

    /// Throws `UsageError` for steps that can't be taken, and for a model that starts from pure noise.
    init(_ record: ConsistencyRecord, steps: Int, share: Double) throws {
        self.record = record
        walked = try record.distilledTimesteps(steps, share)
        timesteps = walked.map(Float.init)
        alphasCumprod = try NoiseSchedule.alphasCumprod(record.process)
        try NoiseSchedule.check(signal: alphasCumprod, at: walked[0], record.process)
    }

    /// Amplitudes of signal and noise at call `index`.
    func powers(_ index: Int) -> (alpha: Double, sigma: Double) {
        let alpha = Double(alphasCumprod[walked[index]])
        return (alpha.squareRoot(), (1 - alpha).squareRoot())
    }

    /// The same as a sampler says it: nil behind the last call.
    func amplitudes(_ index: Int) -> (signal: Double, noise: Double)? {
        guard index < walked.count else { return nil }
        let (alpha, sigma) = powers(index)
        return (alpha, sigma)
    }
}

extension ConsistencyRecord {
    /// `steps` of the distillation's timesteps, from its last one on, falling. Throws `UsageError`.
    fileprivate func distilledTimesteps(_ steps: Int, _ share: Double) throws -> [Int] {
        try NoiseSchedule.check(steps: steps, process)
        guard steps <= distilledSteps, distilledSteps <= process.trainTimesteps else {
            throw UsageError(
                "expected 1 to \(distilledSteps) steps, those this sampler's model was distilled on; found \(steps).")
        }
        let taken = Int(Double(distilledSteps) * share)
        guard steps <= taken else {
            throw UsageError(
                "a strength of \(share) leaves \(taken) of the \(distilledSteps) timesteps this sampler's model was "
                    + "distilled on, too few for \(steps) steps; take fewer, or a higher strength.")
        }
        let distance = process.trainTimesteps / distilledSteps
        return (0..<steps).map { step in
            let place = Int((Double(taken) / Double(steps) * Double(step)).rounded(.down))
            return (taken - place) * distance - 1
        }
    }
}
