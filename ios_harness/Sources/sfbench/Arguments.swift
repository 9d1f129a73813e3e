import SnapFusionKit

/// Words of a command line: options with and without a value, and the rest.
struct Arguments {
    private(set) var positional: [String] = []
    private var values: [String: String] = [:]
    private var flags: Set<String> = []

    /// - Parameters:
    ///   - names: options that take a value, by every spelling ("-o", "--output"), with the name it is kept under.
    ///   - switches: options that don't.
    /// Throws `UsageError` for an unknown option, one given twice, or one without its value.
    init(_ words: [String], values names: [String: String], switches: [String]) throws {
        var rest = words[...]
        while let word = rest.popFirst() {
            if word == "--" {
                positional += rest
                break
            }
            guard word.hasPrefix("-"), word != "-" else {
                positional.append(word)
                continue
            }
            let parts = word.split(separator: "=", maxSplits: 1).map(String.init)
            if switches.contains(word) {
                flags.insert(word)
            } else if let name = names[parts[0]] {
                guard let value = parts.count == 2 ? parts[1] : rest.popFirst() else {
                    throw UsageError("'\(parts[0])' needs a value; see `sfbench --help`.")
                }
                guard values.updateValue(value, forKey: name) == nil else {
                    throw UsageError("'\(parts[0])' is given twice.")
                }
            } else {
                throw UsageError("there is no option '\(word)'; see `sfbench --help`.")
            }
        }
    }

    func has(_ flag: String) -> Bool { flags.contains(flag) }

    func text(_ name: String) -> String? { values[name] }

    func number<Value: LosslessStringConvertible>(_ name: String, as type: Value.Type) throws -> Value? {
        guard let text = values[name] else { return nil }
        guard let value = Value(text) else { throw UsageError("'\(text)' is no value for --\(name).") }
        return value
    }

    func choice<Choice: RawRepresentable & CaseIterable>(
        _ name: String, as type: Choice.Type
    ) throws -> Choice? where Choice.RawValue == String {
        guard let text = values[name] else { return nil }
        guard let choice = Choice(rawValue: text) else {
            let all = Choice.allCases.map(\.rawValue).joined(separator: ", ")
            throw UsageError("'\(text)' is no value for --\(name); expected one of \(all).")
        }
        return choice
    }
}
