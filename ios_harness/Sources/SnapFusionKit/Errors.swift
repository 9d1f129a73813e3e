/// A bundle that must not be used: `reason` is the stable word the Python reader gives for the same fault.
public struct BundleError: Error, Equatable, Sendable, CustomStringConvertible {
    public enum Reason: String, Sendable, CaseIterable {
        case notABundle = "not_a_bundle"
        case invalidJSON = "invalid_json"
        case futureSchema = "future_schema"
        case invalidManifest = "invalid_manifest"
        case pathOutside = "path_outside"
        case linkOutside = "link_outside"
        case missingFile = "missing_file"
        case wrongSize = "wrong_size"
        case wrongChecksum = "wrong_checksum"
    }

    public let reason: Reason
    public let description: String

    public init(_ reason: Reason, _ description: String) {
        self.reason = reason
        self.description = description
    }
}

/// A request that doesn't make sense: a number of steps, an option, a size.
public struct UsageError: Error, Equatable, Sendable, CustomStringConvertible {
    public let description: String

    public init(_ description: String) { self.description = description }
}

/// Something this machine can't do: a feature of a newer system, a missing framework.
public struct UnavailableError: Error, Equatable, Sendable, CustomStringConvertible {
    public let description: String

    public init(_ description: String) { self.description = description }
}

/// A file beside the manifest that can't be read as what it should be: a vocabulary, an array, a budget.
public struct FileFormatError: Error, Equatable, Sendable, CustomStringConvertible {
    public let file: String
    public let problem: String

    public init(file: String, problem: String) {
        self.file = file
        self.problem = problem
    }

    public var description: String { "'\(file)': \(problem)." }
}

/// A component was given, or gave, what its record in the manifest doesn't allow.
public enum ComponentError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The bundle has no such component.
    case missing(ComponentName)
    /// It was asked to predict before it was loaded.
    case notLoaded(ComponentName)
    /// An input is missing, unknown, or of the wrong shape or type.
    case badInput(ComponentName, input: String, expected: String, found: String)
    /// An output is missing or of the wrong shape or type.
    case badOutput(ComponentName, output: String, expected: String, found: String)
    /// An output holds NaN or infinity. `step` counts from 1; nil outside of the loop.
    case nonFinite(ComponentName, output: String, step: Int?, count: Int)
    /// The engine failed to load or run it.
    case failed(ComponentName, String)

    public var description: String {
        switch self {
        case .missing(let name): "the bundle has no component '\(name)'; export it again with it."
        case .notLoaded(let name): "component '\(name)' was asked to predict before it was loaded."
        case .badInput(let name, let input, let expected, let found):
            "input '\(input)' of '\(name)': expected \(expected), found \(found)."
        case .badOutput(let name, let output, let expected, let found):
            "output '\(output)' of '\(name)': expected \(expected), found \(found)."
        case .nonFinite(let name, let output, let step, let count):
            "output '\(output)' of '\(name)' holds \(count) NaN or infinite values"
                + (step.map { " at step \($0)" } ?? "") + "; the fp16 range was probably left."
        case .failed(let name, let problem): "component '\(name)': \(problem)"
        }
    }
}

/// The worker process behind `ProcessRunner` misbehaved.
public enum WorkerError: Error, Equatable, Sendable, CustomStringConvertible {
    /// It couldn't be started.
    case notStarted(command: String, String)
    /// It ended before its answer was complete. `log` is the end of what it wrote to stderr.
    case died(during: String, exitCode: Int32?, log: String)
    /// It didn't answer in time and was ended.
    case timedOut(during: String, seconds: Double)
    /// Its bytes aren't the protocol's.
    case badProtocol(during: String, String)
    /// It answered with an error of its own.
    case refused(during: String, code: Int, String)

    public var description: String {
        switch self {
        case .notStarted(let command, let problem): "the worker '\(command)' can't be started: \(problem)."
        case .died(let during, let exitCode, let log):
            "the worker ended during \(during)" + (exitCode.map { " with exit code \($0)" } ?? "")
                + (log.isEmpty ? "." : "; its last words: \(log)")
        case .timedOut(let during, let seconds): "the worker didn't answer \(during) within \(seconds) s and was ended."
        case .badProtocol(let during, let problem): "the worker broke the protocol during \(during): \(problem)."
        case .refused(let during, _, let sentence): "the worker refused \(during): \(sentence)"
        }
    }
}
