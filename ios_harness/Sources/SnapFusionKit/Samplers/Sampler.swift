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
    /// Network calls that one step takes, but for those that begin or end a walk.
    var callsPerStep: Int { get }
    /// Lets the walk begin at its network call `call` instead of its first, from `noised` latents. Throws `UsageError`
    /// if it can't.
    mutating func begin(at call: Int) throws
    /// Amplitudes of signal and noise in the latents before the next call; nil behind the last.
    var amplitudes: (signal: Double, noise: Double)? { get }
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
    public var callsPerStep: Int { 1 }

    /// The denoised latents `clean` as they would be before the next call; behind the last they are themselves.
    public func noised(_ clean: [Float], _ unit: [Float]) -> [Float] {
        guard let amplitudes else { return clean }
        return Latents.sum(amplitudes.signal, clean, amplitudes.noise, unit)
    }

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

extension SamplerRecord {
    /// A walk that a picture's latents enter, noised as much as `strength` says, and the call it begins at.
    ///
    /// Of `steps` the last whole `steps` · `strength` are walked, as in `sfmobile.sampling.samplers.starting`.
    ///
    /// - Parameter allSteps: all are walked, of a shorter list: as the pipeline of consistency models does it.
    /// - Throws: `UsageError` for a strength that makes no sense or leaves no step.
    public func start(steps: Int, strength: Double, allSteps: Bool) throws -> (sampler: any Sampler, call: Int) {
        guard strength > 0, strength <= 1 else {
            throw UsageError("the strength \(strength) makes no sense; expected above 0 (the picture) to 1 (noise).")
        }
        switch self {
        case .lcm(let record) where allSteps: return (try LCM(record, steps: steps, share: strength), 0)
        case .tcd(let record) where allSteps: return (try TCD(record, steps: steps, share: strength), 0)
        default: break
        }
        var sampler = try start(steps: steps)
        let walked = Int(Double(steps) * strength)
        guard walked > 0 else {
            throw UsageError(
                "a strength of \(strength) leaves none of \(steps) steps; take a higher one, or more steps.")
        }
        let call = (steps - walked) * sampler.callsPerStep
        try sampler.begin(at: call)
        return (sampler, call)
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
