import Foundation

/// Deterministic DDIM sampling (arXiv 2010.02502, equation 12 with eta 0), with all constants from the manifest.
public struct DDIM: Sendable {
    /// One step of the loop: the latents after it, and the model's estimate of the clean latents.
    public struct Result: Sendable {
        public let latents: [Float]
        public let predictedOriginal: [Float]
    }

    public let record: DDIMRecord
    /// Cumulative products of 1 - beta, in float32 as torch stores them.
    public let alphasCumprod: [Float]
    private let finalAlphaCumprod: Float

    /// Throws `UsageError` if the constants make no schedule.
    public init(_ record: DDIMRecord) throws {
        guard record.trainTimesteps > 1 else {
            throw UsageError("the scheduler has \(record.trainTimesteps) training timesteps; expected 2 or more.")
        }
        self.record = record
        var betas = DDIM.betas(record)
        if record.rescaleBetasZeroSNR { betas = DDIM.rescaled(betas) }
        alphasCumprod = DDIM.cumulative(betas)
        finalAlphaCumprod = record.setAlphaToOne ? 1 : alphasCumprod[0]
    }

    /// The timesteps of a run, noisiest first. Throws `UsageError` if `steps` is out of range.
    public func timesteps(steps: Int) throws -> [Int] {
        let train = record.trainTimesteps
        guard (1...train).contains(steps) else {
            throw UsageError("expected 1 to \(train) steps, found \(steps).")
        }
        let timesteps: [Int]
        switch record.timestepSpacing {
        case .linspace:
            let last = Double(train - 1)
            let distance = steps > 1 ? last / Double(steps - 1) : 0
            timesteps = (0..<steps).reversed().map {
                let value = $0 == steps - 1 && steps > 1 ? last : Double($0) * distance
                return Int(value.rounded(.toNearestOrEven))
            }
        case .leading:
            let ratio = train / steps
            timesteps = (0..<steps).reversed().map { $0 * ratio + record.stepsOffset }
        case .trailing:
            let ratio = Double(train) / Double(steps)
            timesteps = (0..<steps).map { Int((Double(train) - Double($0) * ratio).rounded(.toNearestOrEven)) - 1 }
        }
        guard let first = timesteps.first, first < train else {
            throw UsageError(
                "\(steps) steps with leading spacing and an offset of \(record.stepsOffset) start at timestep "
                    + "\(timesteps[0]), beyond the last one trained, \(train - 1); take fewer steps.")
        }
        if record.predictionType == .epsilon && alphasCumprod[first] == 0 {
            throw UsageError(
                "at timestep \(first) this model's latents are pure noise, from which an epsilon prediction can't "
                    + "start; use leading spacing or a v-prediction model.")
        }
        return timesteps
    }

    /// From `latents` at `timestep` to those one step of a run of `steps` before it.
    public func step(modelOutput: [Float], timestep: Int, latents: [Float], steps: Int) throws -> Result {
        guard modelOutput.count == latents.count, (0..<alphasCumprod.count).contains(timestep) else {
            throw UsageError(
                "a step at \(timestep) got \(modelOutput.count) model outputs for \(latents.count) latents.")
        }
        let previous = timestep - record.trainTimesteps / steps
        let alpha = alphasCumprod[timestep]
        let alphaPrevious = previous >= 0 ? alphasCumprod[previous] : finalAlphaCumprod
        let (a, b) = (alpha.squareRoot(), (1 - alpha).squareRoot())
        let (aPrevious, bPrevious) = (alphaPrevious.squareRoot(), (1 - alphaPrevious).squareRoot())
        let bound = Float(record.clipSampleRange)
        var result = [Float](repeating: 0, count: latents.count)
        var original = result
        for index in latents.indices {
            let (x, output) = (latents[index], modelOutput[index])
            var clean: Float
            let noise: Float
            switch record.predictionType {
            case .epsilon: (clean, noise) = ((x - b * output) / a, output)
            case .velocity: (clean, noise) = (a * x - b * output, a * output + b * x)
            }
            if record.clipSample { clean = min(max(clean, -bound), bound) }
            original[index] = clean
            result[index] = aPrevious * clean + bPrevious * noise
        }
        return Result(latents: result, predictedOriginal: original)
    }

    private static func betas(_ record: DDIMRecord) -> [Float] {
        let count = record.trainTimesteps
        switch record.betaSchedule {
        case .linear: return linspace(record.betaStart, record.betaEnd, count).map(Float.init)
        case .scaledLinear:
            return linspace(record.betaStart.squareRoot(), record.betaEnd.squareRoot(), count).map { Float($0 * $0) }
        case .squaredCosine:
            let bars: [Double] = (0...count).map {
                let time = (Double($0) / Double(count) + 0.008) / 1.008
                let cosine = cos(time * Double.pi / 2)
                return cosine * cosine
            }
            return (0..<count).map { Float(min(1 - bars[$0 + 1] / bars[$0], 0.999)) }
        }
    }

    /// `count` values, 2 or more, evenly from `start` to `end`.
    private static func linspace(_ start: Double, _ end: Double, _ count: Int) -> [Double] {
        let step = (end - start) / Double(count - 1)
        return (0..<count).map { $0 == count - 1 ? end : start + step * Double($0) }
    }

    /// torch.cumprod of 1 - beta: accumulated in double precision, each product rounded to float32.
    private static func cumulative(_ betas: [Float]) -> [Float] {
        var product = 1.0
        return betas.map {
            product *= Double(1 - $0)
            return Float(product)
        }
    }

    /// Betas whose last cumulative alpha is zero (arXiv 2305.08891, algorithm 1).
    private static func rescaled(_ betas: [Float]) -> [Float] {
        let roots = cumulative(betas).map { $0.squareRoot() }
        guard let first = roots.first, let last = roots.last else { return betas }
        let scale = first / (first - last)
        let signal = roots.map { (root: Float) -> Float in
            let moved = (root - last) * scale
            return moved * moved
        }
        return signal.indices.map { (index: Int) -> Float in
            1 - (index == 0 ? signal[0] : signal[index] / signal[index - 1])
        }
    }
}
