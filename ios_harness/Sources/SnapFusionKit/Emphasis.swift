/// Weights in a prompt as AUTOMATIC1111's web UI reads them: (word:1.3), ((word)), [word], and BREAK.
///
/// Round brackets multiply what they hold by 1.1 or by the number before the closing one, square brackets divide it by
/// 1.1; a backslash takes a bracket as it is, and one that isn't closed holds the rest of the prompt. What the web UI
/// has beside that (prompt editing, alternation, AND, networks by name) is refused by name.
enum Emphasis {
    /// Text of one weight. `startsChunk`: whether a new chunk of tokens begins with it (BREAK).
    struct Piece: Equatable {
        var text: String
        var weight: Double = 1
        var startsChunk = false
    }

    /// The pieces of `prompt`, neighbours of one weight joined; never none. Throws `UsageError`.
    static func read(_ prompt: String) throws -> [Piece] {
        var reading = Reading(prompt)
        try reading.refuseForeign()
        try reading.run()
        return joined(reading.pieces)
    }

    private static func joined(_ pieces: [Piece]) -> [Piece] {
        var joined: [Piece] = []
        for piece in pieces.isEmpty ? [Piece(text: "")] : pieces {
            if let last = joined.last, !piece.startsChunk, last.weight == piece.weight {
                joined[joined.count - 1].text += piece.text
            } else {
                joined.append(piece)
            }
        }
        return joined
    }
}

/// Pieces so far, and where the brackets that are still open begin: the piece, and the place in the prompt.
private struct Reading {
    private static let plainly = "give the words alone, or take the prompt as it stands: --prompt-syntax plain"

    let prompt: String
    let scalars: [Unicode.Scalar]
    var pieces: [Emphasis.Piece] = []
    var round: [Int] = []
    var square: [(piece: Int, place: Int)] = []

    init(_ prompt: String) {
        self.prompt = prompt
        scalars = Array(prompt.unicodeScalars)
    }

    mutating func run() throws {
        var position = 0
        while position < scalars.count {
            let scalar = scalars[position]
            var end = position + 1
            if scalar == "\\" {
                // A backslash before anything else is left out, as there.
                if end < scalars.count, "()[]\\".unicodeScalars.contains(scalars[end]) {
                    add(text(end..<end + 1))
                    end += 1
                } else {
                    add("")
                }
            } else if scalar == "(" {
                round.append(pieces.count)
            } else if scalar == "[" {
                square.append((pieces.count, position))
            } else if scalar == ":", let weight = weight(at: position) {
                end = weight.end
                if let start = round.popLast() {
                    weigh(from: start, by: try number(weight.text))
                } else {
                    add(text(position..<end))
                }
            } else if scalar == ")", let start = round.popLast() {
                weigh(from: start, by: 1.1)
            } else if scalar == "]", let opened = square.popLast() {
                try refuseEditing(opened.place + 1..<position)
                weigh(from: opened.piece, by: 1 / 1.1)
            } else if ":)]".unicodeScalars.contains(scalar) {
                add(text(position..<end))
            } else {
                while end < scalars.count, !"()[]\\:".unicodeScalars.contains(scalars[end]) { end += 1 }
                try words(position..<end)
            }
            position = end
        }
        for start in round { weigh(from: start, by: 1.1) }
        for (start, _) in square { weigh(from: start, by: 1 / 1.1) }
    }

    private func text(_ range: Range<Int>) -> String {
        var view = String.UnicodeScalarView()
        view.append(contentsOf: scalars[range])
        return String(view)
    }

    private mutating func add(_ text: String, startsChunk: Bool = false) {
        pieces.append(.init(text: text, startsChunk: startsChunk))
    }

    private mutating func weigh(from start: Int, by factor: Double) {
        for index in start..<pieces.count { pieces[index].weight *= factor }
    }

    /// Text without a bracket, cut at each BREAK.
    private mutating func words(_ range: Range<Int>) throws {
        var begun = range.lowerBound
        var startsChunk = false
        var search = range.lowerBound
        while let found = find(word: "BREAK", in: search..<range.upperBound) {
            guard round.isEmpty, square.isEmpty else {
                throw UsageError(
                    "the prompt '\(prompt)' has a BREAK inside brackets; close them before it and open them again.")
            }
            var (before, after) = (found.lowerBound, found.upperBound)
            while before > begun, scalars[before - 1].properties.isWhitespace { before -= 1 }
            while after < range.upperBound, scalars[after].properties.isWhitespace { after += 1 }
            add(text(begun..<before), startsChunk: startsChunk)
            (begun, search, startsChunk) = (after, after, true)
        }
        add(text(begun..<range.upperBound), startsChunk: startsChunk)
    }

    /// Where `word` stands in `range` by itself.
    private func find(word: String, in range: Range<Int>) -> Range<Int>? {
        let letters = Array(word.unicodeScalars)
        guard range.count >= letters.count else { return nil }
        for start in range.lowerBound...(range.upperBound - letters.count)
        where scalars[start..<start + letters.count].elementsEqual(letters) {
            let end = start + letters.count
            let before = start > 0 ? scalars[start - 1] : " "
            let after = end < scalars.count ? scalars[end] : " "
            if !isWord(before), !isWord(after) { return start..<end }
        }
        return nil
    }

    private func isWord(_ scalar: Unicode.Scalar) -> Bool {
        scalar == "_" || scalar.properties.isAlphabetic || scalar.properties.numericType != nil
    }

    /// `:1.3)` with white space around the number.
    private func weight(at colon: Int) -> (text: String, end: Int)? {
        var position = colon + 1
        func skipSpace() {
            while position < scalars.count, scalars[position].properties.isWhitespace { position += 1 }
        }
        skipSpace()
        let start = position
        if position < scalars.count, "+-".unicodeScalars.contains(scalars[position]) { position += 1 }
        let digits = position
        while position < scalars.count, ".0123456789".unicodeScalars.contains(scalars[position]) { position += 1 }
        let end = position
        skipSpace()
        guard end > digits, position < scalars.count, scalars[position] == ")" else { return nil }
        return (text(start..<end), position + 1)
    }

    private func number(_ text: String) throws -> Double {
        let digits = text.filter { $0 != "." }
        guard text.filter({ $0 == "." }).count <= 1, digits.contains(where: \.isNumber),
            let weight = Double(text.hasSuffix(".") ? text + "0" : text), weight.isFinite
        else { throw UsageError("the weight '\(text)' in '\(prompt)' is no number; expected one such as (word:1.3).") }
        return weight
    }

    private func refuseEditing(_ range: Range<Int>) throws {
        var position = range.upperBound
        func skipSpace() {
            while position > range.lowerBound, scalars[position - 1].properties.isWhitespace { position -= 1 }
        }
        skipSpace()
        let end = position
        while position > range.lowerBound, ".0123456789".unicodeScalars.contains(scalars[position - 1]) { position -= 1 }
        let hasNumber = position < end
        skipSpace()
        let isSchedule = hasNumber && position > range.lowerBound && scalars[position - 1] == ":"
        guard isSchedule || scalars[range].contains("|") else { return }
        throw UsageError(
            "'[\(text(range))]' changes the prompt from step to step, which this harness can't do; \(Reading.plainly).")
    }

    func refuseForeign() throws {
        for opened in scalars.indices where scalars[opened] == "<" {
            let rest = scalars[(opened + 1)...]
            let end = rest.firstIndex { $0 == ">" || $0 == "<" }
            guard let end, scalars[end] == ">" else { continue }
            let inside = text(opened + 1..<end)
            let kinds = ["lora:", "lyco:", "hypernet:"]
            if kinds.contains(where: { inside.lowercased().hasPrefix($0) }) {
                throw UsageError(
                    "'<\(inside)>' changes a model's weights, which an export fixes; lay it over the checkpoint there "
                        + "(--lora FILE:SCALE) and leave it out of the prompt.")
            }
        }
        if find(word: "AND", in: 0..<scalars.count) != nil {
            throw UsageError(
                "AND in '\(prompt)' puts several pictures together, which this harness can't do; write it small, or take "
                    + "the prompt as it stands: --prompt-syntax plain.")
        }
    }
}
