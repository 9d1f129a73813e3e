/// One walk from noise to denoised latents, a network call at a time; it holds the history that its formulas need.
///
/// The latents start as noise of unit variance times `noiseScale`. Every call takes `modelInput` of them and the
/// timestep, and `step` makes those of the next call from its output. The same formulas, in the same order and
/// precision, are `sfmobile/sampling/samplers/` in Python, with their sources.
public protocol Sampler: Sendable {
    /// What each network call is told, in order; fractions where a noise level lies between two timesteps.
    var timesteps: [Float] { get }
    /// Standard deviation of the latents that the walk starts from.
    var noiseScale: Float { get }
    /// The latents as the network takes them at the next call: scaled to the variance it was trained on.
    func modelInput(_ latents: [Float]) -> [Float]
    /// From the latents of this call and the network's output for them to those of the next call. What is drawn comes
    /// from `noise`, which has given the initial latents before. Throws `UsageError` for sizes that differ, and behind
    /// the last call.
    mutating func step(
        modelOutput: [Float], latents: [Float], noise: inout TorchGenerator
    ) throws -> SamplerStep
}

/// What one network output says: the latents for the next call, and the denoised latents.
public struct SamplerStep: Sendable {
    public let latents: [Float]
    public let denoised: [Float]
}

extension Sampler {
    public var noiseScale: Float { 1 }
    public func modelInput(_ latents: [Float]) -> [Float] { latents }

    /// Throws `UsageError` unless call `index` can be made with these.
    func check(_ index: Int, _ output: [Float], _ latents: [Float]) throws {
        guard index < timesteps.count else {
            throw UsageError("this walk has \(timesteps.count) network calls, which have all been made; start another.")
        }
        guard output.count == latents.count else {
            throw UsageError("call \(index + 1) got \(output.count) model outputs for \(latents.count) latents.")
        }
    }
}

extension SamplerRecord {
    /// A walk in `steps` steps. Throws `UsageError` for steps that this sampler can't take.
    public func start(steps: Int) throws -> any Sampler {
        switch self {
        case .ddim(let record): try DDIM(record, steps: steps)
        case .pndm(let record): try PNDM(record, steps: steps)
        case .euler(let record): try Euler(record, steps: steps)
        case .eulerAncestral(let record): try EulerAncestral(record, steps: steps)
        case .heun(let record): try Heun(record, steps: steps)
        case .dpmMultistep(let record): try DPMMultistep(record, steps: steps)
        case .dpmSinglestep(let record): try DPMSinglestep(record, steps: steps)
        case .unipc(let record): try UniPC(record, steps: steps)
        case .lcm(let record): try LCM(record, steps: steps)
        case .tcd(let record): try TCD(record, steps: steps)
        }
    }
}

/// Arithmetic on latents: factors are computed in double precision and rounded once.
enum Latents {
    /// a · x + b · y
    static func sum(_ a: Double, _ x: [Float], _ b: Double, _ y: [Float]) -> [Float] {
        let (a, b) = (Float(a), Float(b))
        return zip(x, y).map { a * $0 + b * $1 }
    }

    /// x + b · y
    static func adding(_ x: [Float], _ b: Double, _ y: [Float]) -> [Float] {
        let b = Float(b)
        return zip(x, y).map { $0 + b * $1 }
    }

    /// a · (x − y)
    static func difference(_ a: Double, _ x: [Float], _ y: [Float]) -> [Float] {
        let a = Float(a)
        return zip(x, y).map { a * ($0 - $1) }
    }
}
