/// A sampler's constants, discriminated by `kind`; named as in the manifest.
public enum SamplerRecord: Sendable, Equatable {
    case ddim(DDIMRecord)
    case pndm(PNDMRecord)
    case euler(EulerRecord)
    case eulerAncestral(EulerAncestralRecord)
    case heun(HeunRecord)
    case dpmMultistep(DPMSolverRecord)
    case dpmSinglestep(DPMSolverRecord)
    case unipc(UniPCRecord)
    case lcm(ConsistencyRecord)
    case tcd(ConsistencyRecord)

    /// What the manifest calls it.
    public enum Kind: String, Sendable, CaseIterable {
        case ddim, pndm, euler
        case eulerAncestral = "euler-ancestral"
        case heun
        case dpmMultistep = "dpm++2m"
        case dpmSinglestep = "dpm++2s"
        case unipc, lcm, tcd
    }

    public var kind: Kind {
        switch self {
        case .ddim: .ddim
        case .pndm: .pndm
        case .euler: .euler
        case .eulerAncestral: .eulerAncestral
        case .heun: .heun
        case .dpmMultistep: .dpmMultistep
        case .dpmSinglestep: .dpmSinglestep
        case .unipc: .unipc
        case .lcm: .lcm
        case .tcd: .tcd
        }
    }

    /// The diffusion process that it walks.
    public var process: DiffusionRecord {
        switch self {
        case .ddim(let record): record.process
        case .pndm(let record): record.process
        case .euler(let record): record.process
        case .eulerAncestral(let record): record.process
        case .heun(let record): record.process
        case .dpmMultistep(let record), .dpmSinglestep(let record): record.process
        case .unipc(let record): record.process
        case .lcm(let record), .tcd(let record): record.process
        }
    }

    /// The name of the sampler, as `--sampler` takes it: the kind, and what sets it apart from the plain one.
    public var name: String {
        var parts = [kind.rawValue]
        switch self {
        case .euler(let record): parts += record.schedule.suffix
        case .heun(let record): parts += record.schedule.suffix
        case .unipc(let record): parts += record.schedule.suffix
        case .dpmMultistep(let record), .dpmSinglestep(let record):
            parts += (record.stochastic ? ["sde"] : []) + record.schedule.suffix
        default: break
        }
        return parts.joined(separator: "-")
    }
}

/// The process a network was trained on, and which of its timesteps a run visits.
public struct DiffusionRecord: Sendable, Equatable {
    public enum BetaSchedule: String, Sendable, CaseIterable {
        case linear
        case scaledLinear = "scaled_linear"
        case squaredCosine = "squaredcos_cap_v2"
    }
    public enum PredictionType: String, Sendable, CaseIterable {
        case epsilon
        case velocity = "v_prediction"
        case sample
    }
    public enum TimestepSpacing: String, Sendable, CaseIterable {
        case leading, trailing, linspace
    }

    public var trainTimesteps: Int
    public var betaStart: Double
    public var betaEnd: Double
    public var betaSchedule: BetaSchedule
    public var predictionType: PredictionType
    public var timestepSpacing: TimestepSpacing
    public var stepsOffset: Int
    public var rescaleBetasZeroSNR: Bool
}

/// Where the noise levels of a run come from.
public enum SigmaSchedule: String, Sendable, CaseIterable {
    case timesteps, karras, exponential, lu

    fileprivate var suffix: [String] { self == .timesteps ? [] : [rawValue] }
}

/// The noise level that the last step leads to.
public enum FinalSigma: String, Sendable, CaseIterable {
    case zero
    case smallest = "sigma_min"
}

public struct DDIMRecord: Sendable, Equatable {
    public var process: DiffusionRecord
    public var setAlphaToOne: Bool
    public var clipSample: Bool
    public var clipSampleRange: Double
    public var eta: Double
}

public struct PNDMRecord: Sendable, Equatable {
    public var process: DiffusionRecord
    public var setAlphaToOne: Bool
    public var skipRungeKutta: Bool
}

public struct EulerRecord: Sendable, Equatable {
    public var process: DiffusionRecord
    public var schedule: SigmaSchedule
    public var sigmaMin: Double?
    public var sigmaMax: Double?
    public var finalSigma: FinalSigma
}

public struct EulerAncestralRecord: Sendable, Equatable {
    public var process: DiffusionRecord
}

public struct HeunRecord: Sendable, Equatable {
    public var process: DiffusionRecord
    public var schedule: SigmaSchedule
}

/// Of the multistep and of the singlestep solver, which has no `eulerAtFinal`.
public struct DPMSolverRecord: Sendable, Equatable {
    public enum SolverType: String, Sendable, CaseIterable {
        case midpoint, heun
    }

    public var process: DiffusionRecord
    public var order: Int
    public var solverType: SolverType
    public var stochastic: Bool
    public var lowerOrderFinal: Bool
    public var eulerAtFinal: Bool
    public var schedule: SigmaSchedule
    public var finalSigma: FinalSigma
    public var lambdaMin: Double?
}

public struct UniPCRecord: Sendable, Equatable {
    public enum SolverType: String, Sendable, CaseIterable {
        case bh1, bh2
    }

    public var process: DiffusionRecord
    public var order: Int
    public var solverType: SolverType
    public var lowerOrderFinal: Bool
    public var disableCorrector: [Int]
    public var schedule: SigmaSchedule
    public var finalSigma: FinalSigma
}

/// Of LCM (scaling and clipping) and of TCD (eta).
public struct ConsistencyRecord: Sendable, Equatable {
    public var process: DiffusionRecord
    public var distilledSteps: Int
    public var timestepScaling: Double
    public var clipSample: Bool
    public var clipSampleRange: Double
    public var eta: Double
}
