import Foundation

/// CLIP's byte-pair tokenizer, id for id as transformers' `CLIPTokenizer` (its tokenizers backend).
///
/// Added tokens, such as the ends of text and those of textual inversion, are cut out of the text first. The rest is
/// composed (NFC), runs of white space become one space, every scalar is lowercased by itself; it is cut into contractions, runs of letters, single digits and runs of anything else; each
/// piece's UTF-8 bytes are merged pair by pair in the order of `merges.txt`.
public struct CLIPTokenizer: Sendable {
    public let maxLength: Int
    private let bos: Int32
    private let eos: Int32
    private let pad: Int32
    private let unknown: Int32
    /// The id of a comma, if the vocabulary has one.
    let comma: Int32?
    /// Found in the text as it is typed, and in what the rest becomes.
    private let exact: AddedTokens
    private let added: AddedTokens
    /// Tokens of several vectors, with the names of all of them: diffusers' `maybe_convert_prompt`.
    private let writtenOut: [(token: String, all: String)]
    /// Ids of the 256 bytes inside a word, and at the end of one.
    private let inner: [Int32]
    private let final: [Int32]
    private let merges: [Pair: Merge]

    private struct Pair: Hashable, Sendable {
        let left: Int32
        let right: Int32
    }

    private struct Merge: Sendable {
        let rank: Int
        let id: Int32
    }

    /// The tokenizer of a bundle. Throws `FileFormatError`.
    public init(bundle: ModelBundle) throws {
        let record = bundle.manifest.tokenizer
        try self.init(
            vocab: bundle.root.appendingPathComponent(record.vocab),
            merges: bundle.root.appendingPathComponent(record.merges), maxLength: record.maxLength,
            bos: record.bosTokenID, eos: record.eosTokenID, pad: record.padTokenID, added: record.addedTokens,
            exact: record.exactTokens)
    }

    /// added, exact: ids of tokens that are found in any case of their letters, and as they are written; without any the
    /// two ends of text are found in any case. Throws `FileFormatError` if a file can't be read, or a merge or id isn't in
    /// the vocabulary.
    public init(
        vocab: URL, merges mergesFile: URL, maxLength: Int, bos: Int, eos: Int, pad: Int, added: [String: Int] = [:],
        exact: [String: Int] = [:]
    ) throws {
        func problem(_ file: URL, _ text: String) -> FileFormatError { FileFormatError(file: file.path, problem: text) }
        let ids: [String: Int32]
        do {
            ids = try JSONDecoder().decode([String: Int32].self, from: Data(contentsOf: vocab))
        } catch {
            throw problem(vocab, "expected a JSON object of tokens and ids")
        }
        guard let mergesText = try? String(contentsOf: mergesFile, encoding: .utf8) else {
            throw problem(mergesFile, "expected UTF-8 text")
        }
        guard maxLength >= 2 else { throw problem(vocab, "max_length \(maxLength) leaves no room for a token") }
        guard let bos = Int32(exactly: bos), let eos = Int32(exactly: eos), let pad = Int32(exactly: pad) else {
            throw problem(vocab, "a special id doesn't fit 32 bits")
        }
        (self.maxLength, self.bos, self.eos, self.pad) = (maxLength, bos, eos, pad)
        unknown = ids["<|endoftext|>"] ?? eos
        comma = ids[",</w>"]
        func narrowed(_ tokens: [String: Int]) throws -> [String: Int32] {
            try Dictionary(
                uniqueKeysWithValues: tokens.map { token, id in
                    guard let id = Int32(exactly: id), id >= 0, !token.isEmpty else {
                        throw problem(vocab, "the added token '\(token)' can't have the id \(id)")
                    }
                    return (token, id)
                })
        }
        let ends = ids.filter { added.isEmpty && exact.isEmpty && ["<|startoftext|>", "<|endoftext|>"].contains($0.key) }
        let (addedIDs, exactIDs) = try (narrowed(added).merging(ends) { id, _ in id }, narrowed(exact))
        self.added = AddedTokens(addedIDs) { CLIPTokenizer.normalize($0.unicodeScalars) }
        self.exact = AddedTokens(exactIDs) { Array($0.unicodeScalars) }
        writtenOut = CLIPTokenizer.severalVectors(Set(addedIDs.keys).union(exactIDs.keys))
        let symbols = CLIPTokenizer.byteSymbols
        let fallback = unknown
        inner = symbols.map { ids[$0] ?? fallback }
        final = symbols.map { ids[$0 + "</w>"] ?? fallback }
        var merges: [Pair: Merge] = [:]
        for (index, line) in mergesText.split(whereSeparator: \.isNewline).enumerated() {
            if index == 0 && line.hasPrefix("#version") { continue }
            let parts = line.split(separator: " ")
            guard parts.count == 2, let left = ids[String(parts[0])], let right = ids[String(parts[1])],
                let id = ids[String(parts[0] + parts[1])]
            else { throw problem(mergesFile, "line \(index + 1), '\(line)', isn't two tokens of the vocabulary") }
            let pair = Pair(left: left, right: right)
            if merges[pair] == nil { merges[pair] = Merge(rank: merges.count, id: id) }
        }
        self.merges = merges
    }

    /// A tokenized prompt: `maxLength` ids, and how many tokens of the text didn't fit.
    public struct Tokens: Sendable, Equatable {
        public let ids: [Int32]
        public let dropped: Int
    }

    /// `maxLength` ids: the start, the text's (cut off at `maxLength` - 2), the end, padding.
    public func encode(_ text: String) -> [Int32] { tokenize(text).ids }

    /// The ids of `encode`, and how many more the whole text has.
    public func tokenize(_ text: String) -> Tokens {
        let whole = words(text)
        return Tokens(ids: framed(Array(whole.prefix(maxLength - 2))), dropped: max(0, whole.count - (maxLength - 2)))
    }

    /// The ids of all of the text, without start and end.
    func words(_ text: String) -> [Int32] {
        pieces(of: written(out: text)).flatMap { piece -> [Int32] in
            switch piece {
            case .token(let id, _): [id]
            case .text(let scalars): merge(scalars)
            }
        }
    }

    /// `ids`, at most `maxLength` - 2, between start and end, padded.
    func framed(_ ids: [Int32]) -> [Int32] {
        [bos] + ids + [eos] + Array(repeating: pad, count: maxLength - 2 - ids.count)
    }

    private enum Piece {
        /// An added token, and the text that it was found as.
        case token(Int32, ArraySlice<Unicode.Scalar>)
        case text(ArraySlice<Unicode.Scalar>)
    }

    private func pieces(of text: String) -> [Piece] {
        var pieces: [Piece] = []
        for outer in exact.cut(Array(text.unicodeScalars)[...]) {
            guard case .text(let typed) = outer else {
                pieces.append(outer)
                continue
            }
            var view = String.UnicodeScalarView()
            view.append(contentsOf: typed)
            for inner in added.cut(CLIPTokenizer.normalize(view)[...]) {
                guard case .text(let scalars) = inner else {
                    pieces.append(inner)
                    continue
                }
                pieces += CLIPTokenizer.words(scalars).map(Piece.text)
            }
        }
        return pieces
    }

    /// The text with each token of several vectors followed by those of its other vectors.
    private func written(out text: String) -> String {
        guard !writtenOut.isEmpty else { return text }
        let found = Set(
            pieces(of: text).compactMap { piece -> [Unicode.Scalar]? in
                if case .token(_, let scalars) = piece { Array(scalars) } else { nil }
            })
        var scalars = Array(text.unicodeScalars)
        for (token, all) in writtenOut where found.contains(Array(token.unicodeScalars)) {
            let (old, new) = (Array(token.unicodeScalars), Array(all.unicodeScalars))
            var replaced: [Unicode.Scalar] = []
            var position = 0
            while position < scalars.count {
                let here = scalars[position...].starts(with: old)
                replaced += here ? new : [scalars[position]]
                position += here ? old.count : 1
            }
            scalars = replaced
        }
        var view = String.UnicodeScalarView()
        view.append(contentsOf: scalars)
        return String(view)
    }

    private static func severalVectors(_ tokens: Set<String>) -> [(token: String, all: String)] {
        tokens.filter { tokens.contains("\($0)_1") }
            .sorted { $0.unicodeScalars.lexicographicallyPrecedes($1.unicodeScalars) }
            .map { token in
                var all = [token]
                while tokens.contains("\(token)_\(all.count)") { all.append("\(token)_\(all.count)") }
                return (token, all.joined(separator: " "))
            }
    }

    /// Tokens that are found in text before it is cut into words: the leftmost first, of those the longest.
    private struct AddedTokens: Sendable {
        private let byFirst: [Unicode.Scalar: [(scalars: [Unicode.Scalar], id: Int32)]]

        init(_ ids: [String: Int32], scalars: (String) -> [Unicode.Scalar]) {
            let tokens = ids.map { (scalars: scalars($0.key), id: $0.value) }.filter { !$0.scalars.isEmpty }
            byFirst = Dictionary(grouping: tokens) { $0.scalars[0] }
                .mapValues { $0.sorted { $0.scalars.count > $1.scalars.count } }
        }

        func cut(_ scalars: ArraySlice<Unicode.Scalar>) -> [Piece] {
            var pieces: [Piece] = []
            var start = scalars.startIndex
            var position = start
            while position < scalars.endIndex {
                guard let token = byFirst[scalars[position]]?.first(where: { scalars[position...].starts(with: $0.scalars) })
                else {
                    position += 1
                    continue
                }
                if start < position { pieces.append(.text(scalars[start..<position])) }
                let end = position + token.scalars.count
                pieces.append(.token(token.id, scalars[position..<end]))
                (start, position) = (end, end)
            }
            return start < scalars.endIndex ? pieces + [.text(scalars[start...])] : pieces
        }
    }

    static func normalize(_ text: String.UnicodeScalarView) -> [Unicode.Scalar] {
        var scalars: [Unicode.Scalar] = []
        var afterSpace = false
        for scalar in String(text).precomposedStringWithCanonicalMapping.unicodeScalars {
            let space = isSpace(scalar)
            if space && afterSpace { continue }
            afterSpace = space
            if space {
                scalars.append(" ")
            } else {
                scalars += scalar.properties.lowercaseMapping.unicodeScalars
            }
        }
        return scalars
    }

    private enum Kind {
        case space, letter, digit, other
    }

    private static func isSpace(_ scalar: Unicode.Scalar) -> Bool { scalar.properties.isWhitespace }

    private static func kind(of scalar: Unicode.Scalar) -> Kind {
        switch scalar.properties.generalCategory {
        case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter: .letter
        case .decimalNumber, .letterNumber, .otherNumber: .digit
        default: isSpace(scalar) ? .space : .other
        }
    }

    private static let contractions: [[Unicode.Scalar]] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"].map {
        Array($0.unicodeScalars)
    }

    /// `'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+`, leftmost, first alternative first.
    private static func words(_ scalars: ArraySlice<Unicode.Scalar>) -> [ArraySlice<Unicode.Scalar>] {
        var words: [ArraySlice<Unicode.Scalar>] = []
        var start = scalars.startIndex
        while start < scalars.endIndex {
            let rest = scalars[start...]
            let kind = kind(of: scalars[start])
            let end: Int
            if let contraction = contractions.first(where: { rest.starts(with: $0) }) {
                end = start + contraction.count
            } else if kind == .letter || kind == .other {
                end = rest.firstIndex { CLIPTokenizer.kind(of: $0) != kind } ?? scalars.endIndex
            } else {
                end = start + 1
            }
            if kind != .space { words.append(scalars[start..<end]) }
            start = end
        }
        return words
    }

    /// Merges the bytes of one word: always the pair of the lowest rank, the leftmost first.
    private func merge(_ word: ArraySlice<Unicode.Scalar>) -> [Int32] {
        var bytes: [UInt8] = []
        for scalar in word { bytes += Array(UTF8.encode(scalar) ?? UTF8.encodedReplacementCharacter) }
        var symbols = bytes.map { inner[Int($0)] }
        if let last = bytes.last { symbols[symbols.count - 1] = final[Int(last)] }
        guard symbols.count > 1 else { return symbols }
        // A linked list over positions; the symbol of a pair stands at its left position, the right one is unlinked.
        var next = Array(1...symbols.count)
        var previous = Array(-1..<symbols.count - 1)
        var alive = [Bool](repeating: true, count: symbols.count)
        var queue = MergeQueue()
        func push(_ position: Int) {
            let after = next[position]
            guard after < symbols.count,
                let merge = merges[Pair(left: symbols[position], right: symbols[after])]
            else { return }
            queue.push(
                .init(
                    rank: merge.rank, position: position, id: merge.id, left: symbols[position], right: symbols[after]))
        }
        for position in 0..<(symbols.count - 1) { push(position) }
        while let best = queue.pop() {
            let position = best.position
            guard alive[position], symbols[position] == best.left else { continue }
            let after = next[position]
            guard after < symbols.count, symbols[after] == best.right else { continue }
            symbols[position] = best.id
            alive[after] = false
            next[position] = next[after]
            if next[position] < symbols.count { previous[next[position]] = position }
            if previous[position] >= 0 { push(previous[position]) }
            push(position)
        }
        return symbols.indices.filter { alive[$0] }.map { symbols[$0] }
    }

    /// The printable character that stands for each byte in the vocabulary (GPT-2's table).
    static let byteSymbols: [String] = {
        let printable = Array(33...126) + Array(161...172) + Array(174...255)
        var symbols = [String](repeating: "", count: 256)
        var extra: UInt32 = 256
        for byte in 0..<256 {
            let value = printable.contains(byte) ? UInt32(byte) : extra
            if !printable.contains(byte) { extra += 1 }
            symbols[byte] = Unicode.Scalar(value).map(String.init) ?? ""
        }
        return symbols
    }()
}

/// A binary heap of candidate merges, lowest rank first, then leftmost.
private struct MergeQueue {
    struct Candidate {
        let rank: Int
        let position: Int
        let id: Int32
        let left: Int32
        let right: Int32

        func comes(before other: Candidate) -> Bool {
            rank != other.rank ? rank < other.rank : position < other.position
        }
    }

    private var heap: [Candidate] = []

    mutating func push(_ candidate: Candidate) {
        heap.append(candidate)
        var child = heap.count - 1
        while child > 0, heap[child].comes(before: heap[(child - 1) / 2]) {
            heap.swapAt(child, (child - 1) / 2)
            child = (child - 1) / 2
        }
    }

    mutating func pop() -> Candidate? {
        guard let best = heap.first, let last = heap.popLast() else { return nil }
        if heap.isEmpty { return best }
        heap[0] = last
        var parent = 0
        while true {
            var least = parent
            for child in [2 * parent + 1, 2 * parent + 2]
            where child < heap.count && heap[child].comes(before: heap[least]) {
                least = child
            }
            if least == parent { return best }
            heap.swapAt(parent, least)
            parent = least
        }
    }
}
