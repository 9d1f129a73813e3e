/// PNDM (arXiv 2202.09778): DDIM's step with a noise estimate of fourth order from several network outputs.
public struct PNDM: Sampler {
    /// A call: the timestep it is told, and the two between which its step goes.
    private struct Transfer {
        let told: Int
        let from: Int
        let to: Int
    }

    /// Steps of four calls each that Runge-Kutta makes, and the weights of those calls.
    private static let rungeKuttaSteps = 3
    private static let weights = [1.0 / 6, 1.0 / 3, 1.0 / 3, 1.0 / 6]

    private static let adamsBashforth: [(divisor: Double, factors: [Double])] = [
        (1, [1]), (2, [3, -1]), (12, [23, -16, 5]), (24, [55, -59, 37, -9]),
    ]

    public let record: PNDMRecord
    public let timesteps: [Float]
    private var transfers: [Transfer]
    private let alphasCumprod: [Float]
    private let distance: Int
    private var index = 0
    private var begun = 0
    private var outputs: [[Float]] = []
    private var start: [Float] = []
    private var sum: [Float] = []

    /// Throws `UsageError` for steps that can't be taken.
    public init(_ record: PNDMRecord, steps: Int) throws {
        self.record = record
        let grid = try NoiseSchedule.walked(record.process, steps)
        distance = record.process.trainTimesteps / steps
        if record.skipRungeKutta {
            transfers = PNDM.improvedEuler(Array(grid.prefix(2)) + grid.dropFirst(), distance, begun: 0)
        } else {
            guard steps > PNDM.rungeKuttaSteps else {
                throw UsageError(
                    "expected \(PNDM.rungeKuttaSteps + 1) steps or more, since this PNDM sampler begins with "
                        + "\(PNDM.rungeKuttaSteps) of Runge-Kutta; found \(steps).")
            }
            transfers = PNDM.rungeKutta(grid, distance)
        }
        timesteps = transfers.map { Float($0.told) }
        alphasCumprod = try NoiseSchedule.alphasCumprod(record.process)
        try NoiseSchedule.check(signal: alphasCumprod, at: grid[0], record.process)
    }

    public mutating func begin(at call: Int) throws {
        guard record.skipRungeKutta || call == 0 else {
            throw UsageError(
                "a PNDM sampler that begins with Runge-Kutta can't start from a picture; take another, ddim say.")
        }
        (index, begun) = (call, call)
        if record.skipRungeKutta {
            transfers = PNDM.improvedEuler(transfers.map(\.told), distance, begun: call)
        }
    }

    public var amplitudes: (signal: Double, noise: Double)? {
        guard index < transfers.count else { return nil }
        let alpha = Double(alphasCumprod[transfers[index].told])
        return (alpha.squareRoot(), (1 - alpha).squareRoot())
    }

    /// Of a list that tells the second timestep twice; the second call from `begun` on repeats the first one's step.
    private static func improvedEuler(_ told: [Int], _ distance: Int, begun: Int) -> [Transfer] {
        var calls = told.map { Transfer(told: $0, from: $0, to: $0 - distance) }
        if begun + 1 < told.count {
            let reached = told[begun + 1]
            calls[begun + 1] = Transfer(told: reached, from: reached + distance, to: reached)
        }
        return calls
    }

    private static func rungeKutta(_ grid: [Int], _ distance: Int) -> [Transfer] {
        let half = distance / 2
        let begun = (0..<rungeKuttaSteps).flatMap { step -> [Transfer] in
            let (t, s) = (grid[step], grid[step + 1])
            let middle = s + half
            return [
                Transfer(told: t, from: t, to: t - half), Transfer(told: middle, from: t, to: middle),
                Transfer(told: middle, from: t, to: middle - half), Transfer(told: s, from: t, to: s),
            ]
        }
        return begun + grid[rungeKuttaSteps...].map { Transfer(told: $0, from: $0, to: $0 - distance) }
    }

    public mutating func step(
        modelOutput: [Float], latents: [Float], noise: inout TorchGenerator
    ) throws -> SamplerStep {
        try check(index, modelOutput, latents)
        let (estimate, x) = estimate(modelOutput, latents)
        let transfer = transfers[index]
        index += 1
        let final = record.setAlphaToOne ? 1 : alphasCumprod[0]
        let from = Double(alphasCumprod[transfer.from])
        let to = Double(transfer.to >= 0 ? alphasCumprod[transfer.to] : final)
        let (alpha, sigma) = (from.squareRoot(), (1 - from).squareRoot())
        let kind = record.process.predictionType
        let clean = Prediction.denoised(kind, estimate, x, alpha: alpha, sigma: sigma)
        let epsilon = Prediction.noise(kind, estimate, x, alpha: alpha, sigma: sigma)
        return SamplerStep(
            latents: Latents.sum(to.squareRoot(), clean, (1 - to).squareRoot(), epsilon), denoised: clean)
    }

    /// What stands for the network's output in this call's step, and the latents it starts from.
    private mutating func estimate(_ output: [Float], _ x: [Float]) -> ([Float], [Float]) {
        if record.skipRungeKutta {
            if index == begun + 1 { return (zip(output, outputs[0]).map { ($0 + $1) / 2 }, start) }
            keep(output)
            if index == begun {
                start = x
                return (output, x)
            }
            return (linearMultistep(), x)
        }
        guard index < 4 * PNDM.rungeKuttaSteps else {
            keep(output)
            return (linearMultistep(), x)
        }
        let part = index % 4
        if part == 0 {
            keep(output)
            start = x
            sum = [Float](repeating: 0, count: output.count)
        }
        sum = Latents.adding(sum, PNDM.weights[part], output)
        return (part == 3 ? sum : output, start)
    }

    private mutating func keep(_ output: [Float]) { outputs = outputs.suffix(3) + [output] }

    /// The Adams-Bashforth estimate from one to four outputs, the newest last.
    private func linearMultistep() -> [Float] {
        let newest = Array(outputs.reversed())
        let (divisor, factors) = PNDM.adamsBashforth[newest.count - 1]
        let first = Float(factors[0] / divisor)
        var total = newest[0].map { first * $0 }
        for (factor, output) in zip(factors, newest).dropFirst() {
            total = Latents.adding(total, factor / divisor, output)
        }
        return total
    }
}
