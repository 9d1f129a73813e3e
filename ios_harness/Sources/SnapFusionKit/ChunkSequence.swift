/// One package of a component, ready to run. `Value` is the engine's own array.
public protocol LoadedChunk {
    associatedtype Value

    /// Runs it on its recorded inputs. Gives its recorded outputs.
    func predict(_ inputs: [String: Value]) throws -> [String: Value]
}

/// How much of a component in chunks is in memory at a time.
public enum ChunkResidency: Sendable {
    /// All of them, from `load` to `unload`.
    case all
    /// The one that runs: each is loaded anew in every prediction, which takes longer by that.
    case one
}

/// The packages of one component, run in order, each on what the caller and those before it gave, by name.
///
/// Arrays are handed on as they are, never copied, and let go of behind the last chunk that takes them.
public struct ChunkSequence<Chunk: LoadedChunk> {
    public let name: ComponentName
    public let parts: [ChunkRecord]
    public let residency: ChunkResidency
    private let open: (ChunkRecord) throws -> Chunk
    private var loaded: [Int: Chunk] = [:]
    /// The place of the last chunk that takes a tensor; behind them all for the component's outputs.
    private let lastUse: [String: Int]

    /// Loads every chunk once. With `one` in memory at a time each is let go of before the next: what can't be loaded
    /// fails here all the same.
    ///
    /// - Parameter open: makes one chunk ready. What it throws is passed on.
    public init(
        _ name: ComponentName, record: ComponentRecord, residency: ChunkResidency = .all,
        open: @escaping (ChunkRecord) throws -> Chunk
    ) throws {
        self.name = name
        self.open = open
        parts = record.parts
        // A component of one package has nothing to take turns with.
        self.residency = parts.count > 1 ? residency : .all
        var lastUse: [String: Int] = [:]
        for (place, part) in parts.enumerated() {
            for tensor in part.inputs { lastUse[tensor.name] = place }
        }
        for tensor in record.outputs { lastUse[tensor.name] = parts.count }
        self.lastUse = lastUse
        for place in parts.indices {
            let chunk = try open(parts[place])
            if self.residency == .all { loaded[place] = chunk }
        }
    }

    /// How many chunks are in memory between predictions.
    public var loadedCount: Int { loaded.count }

    /// The component's outputs for its inputs. Throws `ComponentError` if a chunk doesn't give what it should.
    public func run(_ inputs: [String: Chunk.Value]) throws -> [String: Chunk.Value] {
        var values = inputs
        for (place, part) in parts.enumerated() {
            var given: [String: Chunk.Value] = [:]
            for tensor in part.inputs {
                guard let value = values[tensor.name] else {
                    throw ComponentError.badInput(
                        name, input: tensor.name, expected: "a tensor for '\(part.package)'", found: "none")
                }
                given[tensor.name] = value
            }
            let chunk = try loaded[place] ?? open(part)
            let outputs = try chunk.predict(given)
            for tensor in part.outputs {
                guard let value = outputs[tensor.name] else {
                    throw ComponentError.badOutput(
                        name, output: tensor.name, expected: "a tensor from '\(part.package)'", found: "none")
                }
                values[tensor.name] = value
            }
            values = values.filter { lastUse[$0.key, default: -1] > place }
        }
        return values
    }
}
