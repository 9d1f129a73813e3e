import Foundation

/// The noise schedule that all samplers share: signal powers and noise levels of training, and those a run visits.
///
/// Betas, signal powers and levels of training are float32, as torch has them; what is computed from them is double.
enum NoiseSchedule {
    /// Levels of a run: what each call is told, and each call's noise level with the one that the last leads to.
    struct Levels {
        var timesteps: [Float]
        var sigmas: [Double]
    }

    /// Behind zero-SNR rescaling the last noise level is infinite; what is walked is that of the smallest half float.
    private static let leastSignal: Float = 0x1p-24
    private static let karrasRho = 7.0

    /// Cumulative products of 1 - beta, in float32.
    static func alphasCumprod(_ record: DiffusionRecord) throws -> [Float] {
        guard record.trainTimesteps > 1 else {
            throw UsageError("the sampler has \(record.trainTimesteps) training timesteps; expected 2 or more.")
        }
        let betas = betas(record)
        return cumulative(record.rescaleBetasZeroSNR ? rescaled(betas) : betas)
    }

    /// Noise level of each training timestep, rising, all finite.
    static func trainingSigmas(_ record: DiffusionRecord) throws -> [Float] {
        var signal = try alphasCumprod(record)
        if record.rescaleBetasZeroSNR { signal[signal.count - 1] = leastSignal }
        return signal.map { ((1 - $0) / $0).squareRoot() }
    }

    static func check(steps: Int, _ record: DiffusionRecord) throws {
        guard (1...max(record.trainTimesteps, 1)).contains(steps) else {
            throw UsageError("expected 1 to \(record.trainTimesteps) steps, found \(steps).")
        }
    }

    static func check(first: Double, steps: Int, _ record: DiffusionRecord) throws {
        guard first < Double(record.trainTimesteps) else {
            throw UsageError(
                "\(steps) steps with leading spacing and an offset of \(record.stepsOffset) start at timestep "
                    + "\(Int(first)), beyond the last one trained, \(record.trainTimesteps - 1); take fewer steps.")
        }
    }

    static func check(signal: [Float], at first: Int, _ record: DiffusionRecord) throws {
        if record.predictionType == .epsilon && signal[first] == 0 {
            throw UsageError(
                "at timestep \(first) this model's latents are pure noise, from which an epsilon prediction can't "
                    + "start; use leading spacing or a v-prediction model.")
        }
    }

    /// Timesteps of a run, falling; linspace gives fractions.
    static func spaced(_ record: DiffusionRecord, _ steps: Int) -> [Double] {
        let train = record.trainTimesteps
        switch record.timestepSpacing {
        case .linspace: return linspace(0, Double(train - 1), steps).reversed()
        case .leading:
            let distance = train / steps
            return (0..<steps).reversed().map { (step: Int) -> Double in Double(step * distance + record.stepsOffset) }
        case .trailing:
            let ratio = Double(train) / Double(steps)
            return (0..<steps).map { (step: Int) -> Double in
                let exact: Double = Double(train) - Double(step) * ratio
                return exact.rounded(.toNearestOrEven) - 1
            }
        }
    }

    /// Trained timesteps of a run, falling.
    static func walked(_ record: DiffusionRecord, _ steps: Int) throws -> [Int] {
        try check(steps: steps, record)
        let timesteps = spaced(record, steps)
        try check(first: timesteps[0], steps: steps, record)
        return timesteps.map { Int($0.rounded(.toNearestOrEven)) }
    }

    /// Where each of `walked` leads to; below 0 is the picture. Linspace runs walk their own list.
    static func earlier(_ record: DiffusionRecord, _ timesteps: [Int]) -> [Int] {
        if record.timestepSpacing == .linspace { return timesteps.dropFirst() + [-1] }
        return timesteps.map { $0 - record.trainTimesteps / timesteps.count }
    }

    /// Levels of a run of Euler's kind.
    static func levels(
        _ record: DiffusionRecord, _ steps: Int, _ schedule: SigmaSchedule = .timesteps,
        ends: (largest: Double?, smallest: Double?) = (nil, nil), final: FinalSigma = .zero
    ) throws -> Levels {
        try check(steps: steps, record)
        let trained = try trainingSigmas(record)
        var timesteps = spaced(record, steps).map { Double(Float($0)) }
        try check(first: timesteps[0], steps: steps, record)
        var sigmas = timesteps.map { level(at: $0, trained) }
        if schedule != .timesteps {
            sigmas = curve(schedule, ends.largest ?? sigmas[0], ends.smallest ?? sigmas[steps - 1], steps)
            timesteps = sigmas.map { timestep(of: $0, trained) }
        }
        return Levels(timesteps: timesteps.map(Float.init), sigmas: rounded(sigmas, final, trained))
    }

    /// Levels of a run of the DPM solvers' kind: every call is told a trained timestep.
    static func solverLevels(
        _ record: DiffusionRecord, _ steps: Int, _ schedule: SigmaSchedule, _ final: FinalSigma,
        lambdaMin: Double? = nil
    ) throws -> Levels {
        try check(steps: steps, record)
        let trained = try trainingSigmas(record)
        var sigmas: [Double]
        var told: [Double]
        if schedule == .timesteps {
            told = solverTimesteps(record, steps, trained, lambdaMin)
            try check(first: told.first ?? 0, steps: steps, record)
            sigmas = told.map { level(at: $0, trained) }
        } else {
            sigmas = curve(schedule, Double(trained[trained.count - 1]), Double(trained[0]), steps)
            let rounds = schedule != .exponential && record.betaSchedule != .squaredCosine
            told = sigmas.map { sigma in
                let exact = timestep(of: sigma, trained)
                return rounds ? exact.rounded(.toNearestOrEven) : max(exact - 1e-6, 0).rounded(.towardZero)
            }
        }
        sigmas = rounded(sigmas, final, trained)
        let visited = sigmas.dropLast()
        guard zip(visited, visited.dropFirst()).allSatisfy({ $0 > $1 }) else {
            throw UsageError(
                "\(steps) steps of this sampler would visit a noise level twice; with "
                    + "\(record.timestepSpacing.rawValue) spacing over \(record.trainTimesteps) timesteps take fewer.")
        }
        return Levels(timesteps: told.map(Float.init), sigmas: sigmas)
    }

    private static func solverTimesteps(
        _ record: DiffusionRecord, _ steps: Int, _ trained: [Float], _ lambdaMin: Double?
    ) -> [Double] {
        var count = record.trainTimesteps
        if let lambdaMin { count -= trained.count { -log(Double($0)) < lambdaMin } }
        switch record.timestepSpacing {
        case .linspace:
            let rising: [Double] = linspace(0, Double(count - 1), steps + 1)
            return rising.dropFirst().reversed().map { (value: Double) -> Double in value.rounded(.toNearestOrEven) }
        case .leading:
            let distance = count / (steps + 1)
            return (1...steps).reversed().map { (step: Int) -> Double in Double(step * distance + record.stepsOffset) }
        case .trailing:
            let ratio = Double(record.trainTimesteps) / Double(steps)
            var found: [Double] = []
            for step in 0..<steps {
                let exact: Double = Double(count) - Double(step) * ratio
                if exact > 0 { found.append(exact.rounded(.toNearestOrEven) - 1) }
            }
            return found
        }
    }

    private static func rounded(_ sigmas: [Double], _ final: FinalSigma, _ trained: [Float]) -> [Double] {
        (sigmas + [final == .zero ? 0 : Double(trained[0])]).map { Double(Float($0)) }
    }

    private static func curve(
        _ schedule: SigmaSchedule, _ largest: Double, _ smallest: Double, _ steps: Int
    ) -> [Double] {
        guard schedule == .karras else { return linspace(log(largest), log(smallest), steps).map { exp($0) } }
        let (high, low) = (pow(largest, 1 / karrasRho), pow(smallest, 1 / karrasRho))
        return linspace(0, 1, steps).map { (ramp: Double) -> Double in pow(high + ramp * (low - high), karrasRho) }
    }

    private static func level(at timestep: Double, _ trained: [Float]) -> Double {
        let below = min(max(Int(timestep), 0), trained.count - 1)
        let (low, high) = (Double(trained[below]), Double(trained[min(below + 1, trained.count - 1)]))
        return low + (timestep - Double(below)) * (high - low)
    }

    private static func timestep(of sigma: Double, _ trained: [Float]) -> Double {
        let wanted = log(max(sigma, 1e-10))
        guard let above = trained.firstIndex(where: { log(Double($0)) > wanted }) else {
            return Double(trained.count - 1)
        }
        guard above > 0 else { return 0 }
        let (low, high) = (log(Double(trained[above - 1])), log(Double(trained[above])))
        return Double(above - 1) + (wanted - low) / (high - low)
    }

    private static func betas(_ record: DiffusionRecord) -> [Float] {
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

    /// `count` values evenly from `start` to `end`; a single one is `start`.
    private static func linspace(_ start: Double, _ end: Double, _ count: Int) -> [Double] {
        guard count > 1 else { return [start] }
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

/// What a network's output says of latents x = alpha x_0 + sigma e.
enum Prediction {
    /// Amplitudes of signal and noise at a noise level, their squares adding up to 1.
    static func powers(_ level: Double) -> (alpha: Double, sigma: Double) {
        let alpha = 1 / (level * level + 1).squareRoot()
        return (alpha, level * alpha)
    }

    /// x_0 of variance-preserving latents.
    static func denoised(
        _ kind: DiffusionRecord.PredictionType, _ output: [Float], _ x: [Float], alpha: Double, sigma: Double
    ) -> [Float] {
        let (a, b) = (Float(alpha), Float(sigma))
        switch kind {
        case .epsilon: return zip(x, output).map { ($0 - b * $1) / a }
        case .velocity: return zip(x, output).map { a * $0 - b * $1 }
        case .sample: return output
        }
    }

    /// e of variance-preserving latents.
    static func noise(
        _ kind: DiffusionRecord.PredictionType, _ output: [Float], _ x: [Float], alpha: Double, sigma: Double
    ) -> [Float] {
        let (a, b) = (Float(alpha), Float(sigma))
        switch kind {
        case .epsilon: return output
        case .velocity: return zip(x, output).map { a * $1 + b * $0 }
        case .sample: return zip(x, output).map { ($0 - a * $1) / b }
        }
    }

    /// x_0 of latents x_0 + sigma e.
    static func denoised(
        _ kind: DiffusionRecord.PredictionType, _ output: [Float], _ x: [Float], level: Double
    ) -> [Float] {
        switch kind {
        case .epsilon:
            let sigma = Float(level)
            return zip(x, output).map { $0 - sigma * $1 }
        case .velocity:
            let (alpha, amplitude) = powers(level)
            let (a, b) = (Float(alpha * alpha), Float(amplitude))
            return zip(x, output).map { a * $0 - b * $1 }
        case .sample: return output
        }
    }
}
