import Foundation

/// A noise level as the DPM solvers see it: amplitudes of signal and noise, and lambda (infinite without noise).
struct SolverPoint: Sendable {
    let alpha: Double
    let sigma: Double
    let lambda: Double

    init(_ level: Double) {
        (alpha, sigma) = Prediction.powers(level)
        lambda = level == 0 ? .infinity : -log(level)
    }
}

/// One step of DPM-Solver++ (arXiv 2211.01095) from `start` to `end`: the factors of latents, of x_0 and its
/// differences, and of noise.
struct SolverUpdate {
    let start: SolverPoint
    let end: SolverPoint
    let record: DPMSolverRecord

    var h: Double { end.lambda - start.lambda }
    var latents: Double { end.sigma / start.sigma * (record.stochastic ? exp(-h) : 1) }
    var first: Double { -end.alpha * expm1(-span) }
    var second: Double { record.solverType == .midpoint ? 0.5 * first : exactSecond }
    var third: (Double, Double) { (exactSecond, -end.alpha * ((expm1(-span) + span) / (span * span) - 0.5)) }
    var noise: Double { record.stochastic ? end.sigma * (-expm1(-2 * h)).squareRoot() : 0 }

    private var exactSecond: Double { end.alpha * (expm1(-span) / span + 1) }
    private var span: Double { record.stochastic ? 2 * h : h }

    func firstOrder(_ x: [Float], _ denoised: [Float]) -> [Float] { Latents.sum(latents, x, first, denoised) }

    func secondOrder(_ x: [Float], _ denoised: [Float], _ difference: [Float]) -> [Float] {
        Latents.adding(firstOrder(x, denoised), second, difference)
    }
}
