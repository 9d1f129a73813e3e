/// A prompt as the text encoder takes it: chunks of tokens with their weights, and the states that come of them.
///
/// Cutting and weighing are AUTOMATIC1111's, as in `sfmobile.sampling.prompt`: 75 tokens a chunk, which ends after a
/// comma if one stands within its last 20; the mean of the states is restored. A prompt of fewer chunks than the UNet
/// reads is repeated in it, which attention doesn't mind; where they don't divide its places, empty ones follow.
public struct Prompt: Sendable, Equatable {
    /// How a prompt is read: as it stands, or with weights.
    public enum Syntax: String, Sendable, CaseIterable {
        case plain, a1111
    }

    /// Ids with start, end and padding, and a weight for each.
    public struct Chunk: Sendable, Equatable {
        public let ids: [Int32]
        public let weights: [Float]
    }

    public let chunks: [Chunk]
    /// How many of the chunks fill up.
    public let empty: Int
    /// Tokens that no chunk holds.
    public let dropped: Int

    /// All chunks' ids, one after the other.
    public var ids: [Int32] { chunks.flatMap(\.ids) }

    private static let commaReach = 20

    /// `text` in as many chunks as a UNet of `places` of them takes. Throws `UsageError` for what the syntax doesn't have.
    public init(_ text: String, _ syntax: Syntax, tokenizer: CLIPTokenizer, places: Int = 1) throws {
        if syntax == .plain && places == 1 {
            let tokens = tokenizer.tokenize(text)
            chunks = [Chunk(ids: tokens.ids, weights: Array(repeating: 1, count: tokens.ids.count))]
            (empty, dropped) = (0, tokens.dropped)
            return
        }
        var parts: [[Token]] = [[]]
        for piece in try syntax == .a1111 ? Emphasis.read(text) : [.init(text: text)] {
            if piece.startsChunk { parts.append([]) }
            parts[parts.count - 1] += tokenizer.words(piece.text).map { Token(id: $0, weight: Float(piece.weight)) }
        }
        // A BREAK at the very end opens nothing.
        if parts.count > 1 && parts[parts.count - 1].isEmpty { parts.removeLast() }
        let cut = parts.flatMap { Prompt.cut($0, length: tokenizer.maxLength - 2, comma: tokenizer.comma) }
        let kept = cut.prefix(places)
        var count = kept.count
        while places % count != 0 { count += 1 }
        chunks = (kept + Array(repeating: [], count: count - kept.count)).map { tokens in
            let ids = tokenizer.framed(tokens.map(\.id))
            let behind = [Float](repeating: 1, count: ids.count - tokens.count - 1)
            return Chunk(ids: ids, weights: [1] + tokens.map(\.weight) + behind)
        }
        empty = count - kept.count
        dropped = cut.dropFirst(places).reduce(0) { $0 + $1.count }
    }

    private struct Token {
        let id: Int32
        let weight: Float
    }

    /// Runs of at most `length`, at least one. A full one is cut behind its last comma if that is near.
    private static func cut(_ tokens: [Token], length: Int, comma: Int32?) -> [[Token]] {
        var chunks: [[Token]] = []
        var current: [Token] = []
        var behindComma: Int?
        for token in tokens {
            let isFull = current.count == length
            if isFull, token.id != comma, let cut = behindComma, length - cut < commaReach {
                chunks.append(Array(current[..<cut]))
                (current, behindComma) = (current[cut...] + [token], nil)
            } else if isFull {
                // A comma that a chunk begins with is none to cut behind.
                chunks.append(current)
                (current, behindComma) = ([token], nil)
            } else {
                current.append(token)
                if token.id == comma { behindComma = current.count }
            }
        }
        return current.isEmpty && !chunks.isEmpty ? chunks : chunks + [current]
    }

    /// What to tell of what isn't read as it stands; `what`: "prompt".
    public func notes(of what: String) -> [String] {
        var notes: [String] = []
        if dropped > 0 {
            notes.append("The \(what) is \(dropped) tokens longer than the text encoder reads; its end is left out.")
        }
        if empty > 0 {
            notes.append(
                "The \(what) takes \(chunks.count - empty) chunks of the \(chunks.count) that the UNet reads; empty ones fill "
                    + "it up.")
        }
        return notes
    }

    /// Hidden states (1, C, 1, S), each token's times its weight, at the mean that they had before.
    static func weigh(_ states: HostTensor, _ weights: [Float]) throws -> HostTensor {
        guard weights.contains(where: { $0 != 1 }) else { return states }
        let values = states.floats
        let scaled = values.indices.map { values[$0] * weights[$0 % weights.count] }
        func sum(_ values: [Float]) -> Double { values.reduce(0) { $0 + Double($1) } }
        let factor = Float(sum(values) / sum(scaled))
        return try HostTensor(shape: states.shape, scaled.map { $0 * factor })
    }

    /// The chunks' hidden states (1, C, 1, S) side by side, repeated until they fill `places` of them.
    static func beside(_ states: [HostTensor], places: Int) throws -> HostTensor {
        guard let first = states.first, first.shape.count == 4, places != 1 else { return states[0] }
        let (channels, length) = (first.shape[1], first.shape[3])
        let all = states.map(\.floats)
        var joined: [Float] = []
        joined.reserveCapacity(places * first.count)
        for channel in 0..<channels {
            for place in 0..<places {
                joined += all[place % all.count][channel * length..<(channel + 1) * length]
            }
        }
        return try HostTensor(shape: [1, channels, 1, places * length], joined)
    }
}
