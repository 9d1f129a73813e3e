extension SamplerRecord {
    /// Samplers by name, as `sfmobile generate --sampler` takes them.
    public static let names = [
        "ddim", "pndm", "euler", "euler-karras", "euler-ancestral", "heun", "dpm++2m", "dpm++2m-karras", "dpm++2m-sde",
        "dpm++2m-sde-karras", "dpm++2s", "unipc", "lcm", "tcd",
    ]

    /// The sampler called `name` over this one's process; itself if that is its name. Throws `UsageError` if there is
    /// no such sampler, or if it can't walk the model, saying which can.
    public func named(_ name: String) throws -> SamplerRecord {
        if name == self.name { return self }
        guard let record = derived(name) else {
            throw UsageError(
                "there is no sampler '\(name)'; expected one of \(SamplerRecord.names.joined(separator: ", ")).")
        }
        func walks(_ record: SamplerRecord?) -> Bool { (try? record?.start(steps: 2)) != nil }
        guard walks(record) else {
            let others = SamplerRecord.names.filter { walks(derived($0)) }.joined(separator: ", ")
            throw UsageError(
                "the sampler '\(name)' can't walk this model, which starts from pure noise; these can: \(others).")
        }
        return record
    }

    /// This sampler with so much of its noise drawn anew: eta of DDIM, gamma of TCD, 0 none to 1 all. Throws `UsageError`
    /// for another sampler, which has no such constant, and outside of 0 to 1.
    public func with(eta: Double) throws -> SamplerRecord {
        func checked() throws -> Double {
            guard (0...1).contains(eta) else {
                throw UsageError("an eta of \(eta) is impossible; expected 0 (no noise on the way) to 1.")
            }
            return eta
        }
        switch self {
        case .ddim(var record):
            record.eta = try checked()
            return .ddim(record)
        case .tcd(var record):
            record.eta = try checked()
            return .tcd(record)
        default: throw UsageError("the sampler '\(name)' has no eta; ddim and tcd have.")
        }
    }

    private func derived(_ name: String) -> SamplerRecord? {
        func solver(_ process: DiffusionRecord, _ schedule: SigmaSchedule, stochastic: Bool, single: Bool = false)
            -> DPMSolverRecord
        {
            DPMSolverRecord(
                process: process, order: 2, solverType: .midpoint, stochastic: stochastic, lowerOrderFinal: !single,
                eulerAtFinal: false, schedule: schedule, finalSigma: .zero, lambdaMin: nil)
        }
        switch name {
        case "ddim":
            return .ddim(
                DDIMRecord(
                    process: process, setAlphaToOne: setAlphaToOne, clipSample: false, clipSampleRange: 1, eta: 0))
        case "pndm":
            var leading = process
            if process.timestepSpacing == .linspace { leading.timestepSpacing = .leading }
            return .pndm(PNDMRecord(process: leading, setAlphaToOne: setAlphaToOne, skipRungeKutta: true))
        case "euler", "euler-karras":
            let schedule: SigmaSchedule = name == "euler" ? .timesteps : .karras
            return .euler(
                EulerRecord(process: process, schedule: schedule, sigmaMin: nil, sigmaMax: nil, finalSigma: .zero))
        case "euler-ancestral": return .eulerAncestral(EulerAncestralRecord(process: process))
        case "heun": return .heun(HeunRecord(process: process, schedule: .timesteps))
        case "dpm++2m": return .dpmMultistep(solver(process, .timesteps, stochastic: false))
        case "dpm++2m-karras": return .dpmMultistep(solver(process, .karras, stochastic: false))
        case "dpm++2m-sde": return .dpmMultistep(solver(process, .timesteps, stochastic: true))
        case "dpm++2m-sde-karras": return .dpmMultistep(solver(process, .karras, stochastic: true))
        case "dpm++2s":
            var linspace = process
            linspace.timestepSpacing = .linspace
            return .dpmSinglestep(solver(linspace, .timesteps, stochastic: false, single: true))
        case "unipc":
            return .unipc(
                UniPCRecord(
                    process: process, order: 2, solverType: .bh2, lowerOrderFinal: true, disableCorrector: [],
                    schedule: .timesteps, finalSigma: .zero))
        case "lcm", "tcd":
            let record = ConsistencyRecord(
                process: process, distilledSteps: distilledSteps, timestepScaling: 10, clipSample: false,
                clipSampleRange: 1, eta: 0.3)
            return name == "lcm" ? .lcm(record) : .tcd(record)
        default: return nil
        }
    }

    private var setAlphaToOne: Bool {
        switch self {
        case .ddim(let record): record.setAlphaToOne
        case .pndm(let record): record.setAlphaToOne
        default: true
        }
    }

    private var distilledSteps: Int {
        switch self {
        case .lcm(let record), .tcd(let record): record.distilledSteps
        default: 50
        }
    }
}
