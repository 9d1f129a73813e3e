import Foundation

/// Upper bounds for the figures of a report, from a file that says what they are for. Milliseconds.
public struct Budget: Sendable, Equatable {
    /// What the bounds are for, e.g. "iPhone 14 Pro, CPU_AND_NE".
    public let name: String
    /// Model identifiers the bounds are meant for, e.g. "iPhone15,2"; any machine if empty.
    public let models: [String]
    /// Median of one prediction.
    public let components: [ComponentName: Double]
    /// The loop from prompt to pixels.
    public let endToEnd: Double?

    public init(name: String, models: [String] = [], components: [ComponentName: Double], endToEnd: Double?) {
        self.name = name
        self.models = models
        self.components = components
        self.endToEnd = endToEnd
    }

    /// Reads {"name", "models", "components_ms": {component: number}, "end_to_end_ms"}. Throws `FileFormatError`.
    public init(contentsOf url: URL) throws {
        func problem(_ text: String) -> FileFormatError { FileFormatError(file: url.path, problem: text) }
        struct File: Decodable {
            let name: String
            let models: [String]?
            let components: [String: Double]
            let endToEnd: Double?

            enum CodingKeys: String, CodingKey {
                case name, models
                case components = "components_ms"
                case endToEnd = "end_to_end_ms"
            }
        }
        let file: File
        do {
            file = try JSONDecoder().decode(File.self, from: Data(contentsOf: url))
        } catch {
            throw problem("expected a budget: an object with 'name', 'components_ms' and 'end_to_end_ms'")
        }
        var components: [ComponentName: Double] = [:]
        for (key, bound) in file.components {
            guard let name = ComponentName(rawValue: key) else { throw problem("'\(key)' is no component") }
            components[name] = bound
        }
        let bounds = Array(components.values) + [file.endToEnd ?? 1]
        guard bounds.allSatisfy({ $0.isFinite && $0 > 0 }) else { throw problem("every bound is a positive number") }
        self.init(
            name: file.name, models: file.models ?? [], components: components, endToEnd: file.endToEnd)
    }

    /// Whether the bounds are meant for this machine.
    public func applies(to machine: MachineRecord) -> Bool {
        models.isEmpty || machine.model.map(models.contains) == true
    }

    /// One figure on the wrong side of its bound.
    public struct Excess: Sendable, Equatable, CustomStringConvertible {
        public let figure: String
        public let bound: Double
        public let found: Double

        public init(figure: String, bound: Double, found: Double) {
            self.figure = figure
            self.bound = bound
            self.found = found
        }

        public var description: String {
            String(format: "%@: %.1f ms, %.1f allowed (%+.0f %%)", figure, found, bound, (found / bound - 1) * 100)
        }
    }

    /// The figures of `report` that exceed their bounds.
    public func excesses(of report: BenchReport) -> [Excess] {
        var excesses: [Excess] = []
        for name in ComponentName.allCases {
            guard let bound = components[name], let median = report.components[name]?.predictions.median else {
                continue
            }
            if median > bound { excesses.append(Excess(figure: "\(name) median", bound: bound, found: median)) }
        }
        if let bound = endToEnd, let found = report.loop?.endToEnd, found > bound {
            excesses.append(Excess(figure: "end to end", bound: bound, found: found))
        }
        return excesses
    }
}
