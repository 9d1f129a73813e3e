/// What a component answered, and how long the prediction itself took (without conversions on the host's side).
public struct ComponentPrediction: Sendable {
    public let outputs: [String: HostTensor]
    public let seconds: Double

    public init(outputs: [String: HostTensor], seconds: Double) {
        self.outputs = outputs
        self.seconds = seconds
    }
}

/// What one load took, and what it found.
public struct LoadTiming: Sendable, Equatable {
    /// What the load started from. It decides how much of "cold" a first load is: what Core ML keeps of its own between
    /// runs isn't known to this process.
    public enum Kind: String, Sendable, Codable, CaseIterable {
        /// The package was compiled just now.
        case compiledNow = "compiled_now"
        /// A compiled copy of an earlier run was there.
        case compiledBefore = "compiled_before"
        /// The app was built with the compiled model.
        case compiledAtBuild = "compiled_at_build"
    }

    /// Seconds of compiling the package, of loading, and both. All are 0 for what was loaded already.
    public var compile: Double?
    public var load: Double
    /// Nil for an engine that compiles nothing.
    public var kind: Kind?

    public init(compile: Double? = nil, load: Double, kind: Kind? = nil) {
        self.compile = compile
        self.load = load
        self.kind = kind
    }

    public static let alreadyLoaded = LoadTiming(load: 0)

    public var seconds: Double { (compile ?? 0) + load }
}

/// Which arrays a component works on: how many were asked to be shared with the engine, and how many were.
public struct BufferRecord: Sendable, Equatable, Codable {
    public var inputs = 0
    /// Of the inputs, those in memory that the Neural Engine and the GPU read without a copy.
    public var sharedInputs = 0
    public var outputs = 0
    public var sharedOutputs = 0
    /// Of the outputs, those that the last prediction wrote into the array it was given, told by identity.
    public var backedOutputs = 0

    public init() {}
}

/// An engine that executes the components of one bundle: Core ML, or a process behind pipes.
public protocol ComponentRunner: Sendable {
    /// The engine's own name for itself, which every figure it produces carries.
    func describe() async throws -> RuntimeRecord

    /// Makes a component ready. Returns what it took; nothing if it was loaded already.
    @discardableResult
    func load(_ name: ComponentName) async throws -> LoadTiming

    /// Runs a loaded component once. Inputs are those the manifest records, each exactly once.
    func predict(_ name: ComponentName, inputs: [String: HostTensor]) async throws -> ComponentPrediction

    /// Frees a component; no error if it isn't loaded.
    func unload(_ name: ComponentName) async

    /// Frees every component.
    func unloadAll() async

    /// Forgets what was made of a component for this device, so that the next load is a cold one; unloads it.
    func forget(_ name: ComponentName) async throws

    /// Memory of the process that executes, if the system tells. It answers while something else is loaded.
    func memory() async -> MemorySample?

    /// The arrays of a loaded component, as of its last prediction; nil if the engine has none of its own.
    func buffers(of name: ComponentName) async -> BufferRecord?
}

extension ComponentRunner {
    /// Loads a component and runs it once on inputs of the recorded shapes (`sampleInputs`). Core ML specializes a model
    /// for the device in its first load, and allocates in its first prediction: both are over then.
    @discardableResult
    public func prewarm(_ name: ComponentName, record: ComponentRecord) async throws -> Double {
        try await load(name)
        return try await predict(name, inputs: record.sampleInputs()).seconds
    }

    /// Nothing to forget, for an engine that keeps nothing.
    public func forget(_ name: ComponentName) async throws { await unload(name) }

    public func buffers(of name: ComponentName) async -> BufferRecord? { nil }

}

extension ComponentRecord {
    /// Inputs of the recorded shapes: normal noise, or small token ids. A time doesn't depend on the values.
    public func sampleInputs(seed: UInt64 = 0) throws -> [String: HostTensor] {
        var generator = TorchGenerator(seed: seed)
        var tensors: [String: HostTensor] = [:]
        for input in inputs {
            let count = HostTensor.count(of: input.shape)
            guard count >= 0 else { throw UsageError("input '\(input.name)' has no usable shape: \(input.shape).") }
            tensors[input.name] =
                input.dtype == .int32
                ? try HostTensor(shape: input.shape, (0..<count).map { Int32($0 % 256) })
                : try HostTensor(shape: input.shape, generator.normal(count: count))
        }
        return tensors
    }

    /// Throws `ComponentError.badInput` unless `given` are the recorded inputs, each with its shape and kind of type.
    public func check(inputs given: [String: HostTensor], of name: ComponentName) throws {
        for input in inputs {
            let expected = "\(input.dtype == .int32 ? "int32" : "float32") \(HostTensor.describe(input.shape))"
            let found = given[input.name]?.summary ?? "none"
            guard found == expected else {
                throw ComponentError.badInput(name, input: input.name, expected: expected, found: found)
            }
        }
        if let extra = given.keys.sorted().first(where: { key in !inputs.contains { $0.name == key } }) {
            throw ComponentError.badInput(
                name, input: extra, expected: "no such input", found: given[extra]?.summary ?? "")
        }
    }

    /// Throws `ComponentError.badOutput` unless `given` holds the recorded outputs with their shapes.
    public func check(outputs given: [String: HostTensor], of name: ComponentName) throws {
        for output in outputs {
            let expected = "float32 \(HostTensor.describe(output.shape))"
            let found = given[output.name]?.summary ?? "none"
            guard found == expected else {
                throw ComponentError.badOutput(name, output: output.name, expected: expected, found: found)
            }
        }
    }
}
