import Foundation

/// Bounds for the figures of a report, from a file that says what they are for. Milliseconds, and shares from 0 to 1.
public struct LatencyBudget: Sendable, Equatable {
    /// What the bounds are for, e.g. "iPhone 14 Pro, CPU_AND_NE".
    public let name: String
    /// Model identifiers the bounds are meant for, e.g. "iPhone15,2"; any machine if empty.
    public let models: [String]
    /// Median of one prediction.
    public let components: [ComponentName: Double]
    /// Median of one step of the loop: every call of the UNet that it makes, be it one of batch 2 or two of batch 1.
    public let step: Double?
    /// The loop from prompt to pixels.
    public let endToEnd: Double?
    /// The least share of a component's estimated cost on the Neural Engine.
    public let neuralEngineCost: [ComponentName: Double]
    /// How many times slower a component has to be on the CPU alone, at least: one that isn't runs there anyway.
    public let cpuOnlyRatio: [ComponentName: Double]

    public init(
        name: String, models: [String] = [], components: [ComponentName: Double], step: Double? = nil,
        endToEnd: Double? = nil, neuralEngineCost: [ComponentName: Double] = [:],
        cpuOnlyRatio: [ComponentName: Double] = [:]
    ) {
        self.name = name
        self.models = models
        self.components = components
        self.step = step
        self.endToEnd = endToEnd
        self.neuralEngineCost = neuralEngineCost
        self.cpuOnlyRatio = cpuOnlyRatio
    }

    /// Reads {"name", "models", "components_ms": {component: number}, "step_ms", "end_to_end_ms",
    /// "neural_engine_cost": {component: share}, "cpu_only_ratio": {component: number}}; all but the first and the third
    /// may be missing. Throws `FileFormatError`.
    public init(contentsOf url: URL) throws {
        func problem(_ text: String) -> FileFormatError { FileFormatError(file: url.path, problem: text) }
        struct File: Decodable {
            let name: String
            let models: [String]?
            let components: [String: Double]
            let step: Double?
            let endToEnd: Double?
            let neuralEngineCost: [String: Double]?
            let cpuOnlyRatio: [String: Double]?

            enum CodingKeys: String, CodingKey {
                case name, models
                case components = "components_ms"
                case step = "step_ms"
                case endToEnd = "end_to_end_ms"
                case neuralEngineCost = "neural_engine_cost"
                case cpuOnlyRatio = "cpu_only_ratio"
            }
        }
        let file: File
        do {
            file = try JSONDecoder().decode(File.self, from: Data(contentsOf: url))
        } catch {
            throw problem("expected a budget: an object with 'name', 'components_ms' and 'end_to_end_ms'")
        }
        func bounds(_ given: [String: Double]?) throws -> [ComponentName: Double] {
            var bounds: [ComponentName: Double] = [:]
            for (key, bound) in given ?? [:] {
                guard let name = ComponentName(rawValue: key) else { throw problem("'\(key)' is no component's name") }
                guard bound.isFinite, bound > 0 else { throw problem("every bound is a positive number") }
                bounds[name] = bound
            }
            return bounds
        }
        let single = [file.step, file.endToEnd].compactMap { $0 }
        guard single.allSatisfy({ $0.isFinite && $0 > 0 }) else { throw problem("every bound is a positive number") }
        let shares = try bounds(file.neuralEngineCost)
        guard shares.values.allSatisfy({ $0 <= 1 }) else { throw problem("a share is at most 1") }
        self.init(
            name: file.name, models: file.models ?? [], components: try bounds(file.components), step: file.step,
            endToEnd: file.endToEnd, neuralEngineCost: shares, cpuOnlyRatio: try bounds(file.cpuOnlyRatio))
    }

    /// Whether the bounds are meant for this machine.
    public func applies(to machine: MachineRecord) -> Bool {
        models.isEmpty || machine.model.map(models.contains) == true
    }

    /// One figure on the wrong side of its bound.
    public struct Excess: Sendable, Equatable, CustomStringConvertible {
        public enum Unit: Sendable { case milliseconds, share, times }

        public let figure: String
        /// The most that is allowed of milliseconds, and the least of the others.
        public let bound: Double
        public let found: Double
        public let unit: Unit

        public init(figure: String, bound: Double, found: Double, unit: Unit = .milliseconds) {
            self.figure = figure
            self.bound = bound
            self.found = found
            self.unit = unit
        }

        public var description: String {
            switch unit {
            case .milliseconds:
                String(format: "%@: %.1f ms, %.1f allowed (%+.0f %%)", figure, found, bound, (found / bound - 1) * 100)
            case .share: String(format: "%@: %.0f %%, at least %.0f expected", figure, found * 100, bound * 100)
            case .times: String(format: "%@: %.1f times as slow, at least %.1f expected", figure, found, bound)
            }
        }
    }

    /// A bound that says nothing about this report, and why.
    public struct Skipped: Sendable, Equatable, CustomStringConvertible {
        public let figure: String
        public let reason: String

        public init(figure: String, reason: String) {
            self.figure = figure
            self.reason = reason
        }

        public var description: String { "\(figure): not gated, \(reason)" }
    }

    /// What the bounds say of a report.
    public struct Verdict: Sendable, Equatable {
        public var excesses: [Excess] = []
        public var skipped: [Skipped] = []
    }

    /// Holds every bound to the report. Durations count only where the device was cool before and after, and not saving
    /// power; shares and ratios count anyway.
    public func verdict(on report: BenchReport) -> Verdict {
        var verdict = Verdict()
        let saving = report.conditions.lowPowerMode == true ? "low power mode was on" : nil

        func gate(
            _ figure: String, _ bound: Double?, _ found: Double?, _ unit: Excess.Unit = .milliseconds,
            missing: String, unfit: String? = nil
        ) {
            guard let bound else { return }
            guard let found else {
                verdict.skipped.append(Skipped(figure: figure, reason: missing))
                return
            }
            if let unfit {
                verdict.skipped.append(Skipped(figure: figure, reason: unfit))
            } else if unit == .milliseconds ? found > bound : !(found >= bound) {
                verdict.excesses.append(Excess(figure: figure, bound: bound, found: found, unit: unit))
            }
        }

        let bounded = Set(components.keys).union(neuralEngineCost.keys).union(cpuOnlyRatio.keys)
        for name in bounded.sorted() {
            let one = report.components[name]
            let gone = report.crashed.contains(name.rawValue) ? "it crashed" : "it wasn't measured"
            let heat = LatencyBudget.heat(one?.thermalStateBefore, one?.thermalStateAfter, report.conditions)
            gate(
                "\(name) median", components[name], one?.predictions.median, missing: gone, unfit: saving ?? heat)
            gate(
                "\(name) cost on the Neural Engine", neuralEngineCost[name], one?.placement?.neuralEngineCostShare,
                .share, missing: "there is no compute plan")
            let ratio = one.flatMap { one in one.cpuOnlyMedian.map { $0 / one.predictions.median } }
            gate(
                "\(name) on the CPU alone", cpuOnlyRatio[name], ratio, .times,
                missing: "there is no run on the CPU alone")
        }
        let loop = report.loop
        let gone = report.crashed.contains("loop") ? "it crashed" : "it wasn't measured"
        let heat = LatencyBudget.heat(loop?.thermalStateBefore, loop?.thermalStateAfter, report.conditions)
        gate("unet step", step, loop?.stepMedian, missing: gone, unfit: saving ?? heat)
        gate("end to end", endToEnd, loop?.endToEnd, missing: gone, unfit: saving ?? heat)
        return verdict
    }

    /// Why a duration says nothing, if the device was hot. The report's states stand in for a measurement without its own.
    private static func heat(
        _ before: ConditionsRecord.ThermalState?, _ after: ConditionsRecord.ThermalState?,
        _ conditions: ConditionsRecord
    ) -> String? {
        let states = [before ?? conditions.thermalStateBefore, after ?? conditions.thermalStateAfter].compactMap { $0 }
        guard states.contains(where: { $0 != .nominal }) else { return nil }
        return "the thermal state was " + states.map(\.rawValue).joined(separator: " to ")
    }
}
