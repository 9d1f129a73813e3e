/// What a component answered, and how long the prediction itself took (without conversions on the host's side).
public struct Prediction: Sendable {
    public let outputs: [String: Tensor]
    public let seconds: Double

    public init(outputs: [String: Tensor], seconds: Double) {
        self.outputs = outputs
        self.seconds = seconds
    }
}

/// An engine that executes the components of one bundle: Core ML, or a process behind pipes.
public protocol ComponentRunner: Sendable {
    /// The engine's own name for itself, which every figure it produces carries.
    func describe() async throws -> RuntimeRecord

    /// Makes a component ready. Returns the seconds it took, 0 if it was loaded already.
    @discardableResult
    func load(_ name: ComponentName) async throws -> Double

    /// Runs a loaded component once. Inputs are those the manifest records, each exactly once.
    func predict(_ name: ComponentName, inputs: [String: Tensor]) async throws -> Prediction

    /// Frees a component; no error if it isn't loaded.
    func unload(_ name: ComponentName) async

    /// Forgets what was made of a component for this device, so that the next load is a cold one; unloads it.
    func forget(_ name: ComponentName) async throws

    /// Memory of the process that executes, if the system tells.
    func memory() async -> MemorySample?
}

extension ComponentRunner {
    /// Runs a component on inputs of the recorded shapes (`sampleInputs`): what was loaded is specialized only then.
    @discardableResult
    public func prewarm(_ name: ComponentName, record: ComponentRecord) async throws -> Double {
        try await load(name)
        return try await predict(name, inputs: record.sampleInputs()).seconds
    }

    /// Nothing to forget, for an engine that keeps nothing.
    public func forget(_ name: ComponentName) async throws { await unload(name) }

    /// Frees everything.
    public func unloadAll() async {
        for name in ComponentName.allCases { await unload(name) }
    }
}

/// Memory at one moment, in bytes: resident set, or on Apple systems the footprint that the limit applies to.
public struct MemorySample: Sendable, Equatable {
    public var total: Int
    public var anonymous: Int?
    public var fileBacked: Int?

    public init(total: Int, anonymous: Int? = nil, fileBacked: Int? = nil) {
        self.total = total
        self.anonymous = anonymous
        self.fileBacked = fileBacked
    }
}

extension ComponentRecord {
    /// Inputs of the recorded shapes: normal noise, or small token ids. A time doesn't depend on the values.
    public func sampleInputs(seed: UInt64 = 0) throws -> [String: Tensor] {
        var generator = TorchGenerator(seed: seed)
        var tensors: [String: Tensor] = [:]
        for input in inputs {
            let count = Tensor.count(of: input.shape)
            guard count >= 0 else { throw UsageError("input '\(input.name)' has no usable shape: \(input.shape).") }
            tensors[input.name] =
                input.dtype == .int32
                ? try Tensor(shape: input.shape, (0..<count).map { Int32($0 % 256) })
                : try Tensor(shape: input.shape, generator.normal(count: count))
        }
        return tensors
    }

    /// Throws `ComponentError.badInput` unless `given` are the recorded inputs, each with its shape and kind of type.
    public func check(inputs given: [String: Tensor], of name: ComponentName) throws {
        for input in inputs {
            let expected = "\(input.dtype == .int32 ? "int32" : "float32") \(Tensor.describe(input.shape))"
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
    public func check(outputs given: [String: Tensor], of name: ComponentName) throws {
        for output in outputs {
            let expected = "float32 \(Tensor.describe(output.shape))"
            let found = given[output.name]?.summary ?? "none"
            guard found == expected else {
                throw ComponentError.badOutput(name, output: output.name, expected: expected, found: found)
            }
        }
    }
}
