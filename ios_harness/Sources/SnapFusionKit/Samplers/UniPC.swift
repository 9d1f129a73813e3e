import Foundation

/// UniPC (arXiv 2302.04867): a predictor as the DPM solvers', whose last step is corrected with the next call's output.
public struct UniPC: Sampler {
    /// The last predictor's step, for the corrector.
    private struct Step: Sendable {
        let latents: [Float]
        let index: Int
        let order: Int
    }

    public let record: UniPCRecord
    public let timesteps: [Float]
    private let points: [SolverPoint]
    private var index = 0
    private var denoised: [[Float]] = []
    private var last: Step?

    /// Throws `UsageError` for steps that can't be taken.
    public init(_ record: UniPCRecord, steps: Int) throws {
        self.record = record
        let levels = try NoiseSchedule.solverLevels(record.process, steps, record.schedule, record.finalSigma)
        timesteps = levels.timesteps
        var sigmas = levels.sigmas
        if record.schedule != .timesteps && record.finalSigma == .smallest {
            sigmas[sigmas.count - 1] = sigmas[sigmas.count - 2]
        }
        points = sigmas.map(SolverPoint.init)
    }

    private var order: Int {
        var order = min(record.order, denoised.count)
        if record.lowerOrderFinal { order = min(order, timesteps.count - index) }
        let goesNowhere = points[index + 1].sigma == 0 || points[index + 1].sigma == points[index].sigma
        return goesNowhere ? 1 : order
    }

    public mutating func begin(at call: Int) { index = call }

    public var amplitudes: (signal: Double, noise: Double)? {
        index < timesteps.count ? (points[index].alpha, points[index].sigma) : nil
    }

    public mutating func step(
        modelOutput: [Float], latents: [Float], noise: inout TorchGenerator
    ) throws -> SamplerStep {
        try check(index, modelOutput, latents)
        let here = points[index]
        let clean = Prediction.denoised(
            record.process.predictionType, modelOutput, latents, alpha: here.alpha, sigma: here.sigma)
        var x = latents
        if let last, !record.disableCorrector.contains(last.index) { x = update(last, reached: clean) }
        denoised = denoised.suffix(record.order - 1) + [clean]
        let step = Step(latents: x, index: index, order: order)
        last = step
        index += 1
        return SamplerStep(latents: update(step, reached: nil), denoised: clean)
    }

    /// The predictor's step, or the corrector's with x_0 of the call that the step reached.
    private func update(_ step: Step, reached: [Float]?) -> [Float] {
        let (start, end) = (points[step.index], points[step.index + 1])
        let h = start.lambda - end.lambda
        let base = denoised[denoised.count - 1]
        var result = Latents.sum(end.sigma / start.sigma, step.latents, -end.alpha * expm1(h), base)
        var ratios: [Double] = []
        var differences: [[Float]] = []
        for age in 1..<max(step.order, 1) where age < step.order {
            let ratio = (points[step.index - age].lambda - start.lambda) / -h
            let divisor = Float(ratio)
            ratios.append(ratio)
            differences.append(zip(denoised[denoised.count - 1 - age], base).map { ($0 - $1) / divisor })
        }
        if let reached {
            ratios.append(1)
            differences.append(zip(reached, base).map { $0 - $1 })
        }
        guard !differences.isEmpty else { return result }
        let scale = -end.alpha * (record.solverType == .bh1 ? h : expm1(h))
        for (weight, difference) in zip(weights(ratios, h), differences) {
            result = Latents.adding(result, scale * weight, difference)
        }
        return result
    }

    /// Weights of the differences at those ratios (theorem 3.1). A single one is 1/2, the paper's simplification.
    private func weights(_ ratios: [Double], _ h: Double) -> [Double] {
        guard ratios.count > 1 else { return [0.5] }
        let whole = record.solverType == .bh1 ? h : expm1(h)
        var right: [Double] = []
        var (phi, factorial) = (expm1(h) / h - 1, 1.0)
        for order in 1...ratios.count {
            right.append(phi * factorial / whole)
            factorial *= Double(order + 1)
            phi = phi / h - 1 / factorial
        }
        return UniPC.solve((0..<ratios.count).map { power in ratios.map { pow($0, Double(power)) } }, right)
    }

    /// The solution of a small system of equations, by elimination with pivots.
    private static func solve(_ matrix: [[Double]], _ right: [Double]) -> [Double] {
        var rows = zip(matrix, right).map { $0 + [$1] }
        let count = rows.count
        for column in 0..<count {
            let pivot = (column..<count).max { abs(rows[$0][column]) < abs(rows[$1][column]) } ?? column
            rows.swapAt(column, pivot)
            for row in (column + 1)..<max(count, column + 1) {
                let factor = rows[row][column] / rows[column][column]
                for place in column...count { rows[row][place] -= factor * rows[column][place] }
            }
        }
        var solution = [Double](repeating: 0, count: count)
        for row in (0..<count).reversed() {
            let known = ((row + 1)..<max(count, row + 1)).reduce(0.0) { $0 + rows[row][$1] * solution[$1] }
            solution[row] = (rows[row][count] - known) / rows[row][row]
        }
        return solution
    }
}
