import Foundation

extension OrderedJSON {
    /// Where a document stops being JSON.
    public struct SyntaxError: Error, Equatable, Sendable, CustomStringConvertible {
        public let offset: Int
        public let description: String
    }

    /// Parses a document of RFC 8259 and nothing more lenient: no trailing commas, no NaN, no comments. Of a key that
    /// comes twice the last value counts, as in Python. Throws `SyntaxError`.
    public init(parsing data: Data) throws {
        var parser = JSONParser(bytes: [UInt8](data))
        self = try parser.document()
    }
}

private struct JSONParser {
    private let bytes: [UInt8]
    private var position = 0
    private static let deepest = 512

    init(bytes: [UInt8]) { self.bytes = bytes }

    mutating func document() throws -> OrderedJSON {
        let value = try value(depth: 0)
        skipSpace()
        guard position == bytes.count else { throw problem("something follows the document") }
        return value
    }

    private func problem(_ text: String) -> OrderedJSON.SyntaxError {
        OrderedJSON.SyntaxError(offset: position, description: "\(text) at byte \(position)")
    }

    private var next: UInt8? { position < bytes.count ? bytes[position] : nil }

    private mutating func skipSpace() {
        while let byte = next, byte == 0x20 || byte == 0x09 || byte == 0x0a || byte == 0x0d { position += 1 }
    }

    private mutating func take(_ character: Character) -> Bool {
        guard let byte = next, byte == character.asciiValue else { return false }
        position += 1
        return true
    }

    private mutating func value(depth: Int) throws -> OrderedJSON {
        guard depth < JSONParser.deepest else { throw problem("nested too deeply") }
        skipSpace()
        switch next.map({ Character(Unicode.Scalar($0)) }) {
        case "{": return try object(depth: depth)
        case "[": return try array(depth: depth)
        case "\"": return .string(try string())
        case "t": return try word("true", .bool(true))
        case "f": return try word("false", .bool(false))
        case "n": return try word("null", .null)
        default: return try number()
        }
    }

    private mutating func word(_ text: String, _ value: OrderedJSON) throws -> OrderedJSON {
        guard bytes[position...].starts(with: text.utf8) else { throw problem("no value") }
        position += text.utf8.count
        return value
    }

    private mutating func array(depth: Int) throws -> OrderedJSON {
        position += 1
        var elements: [OrderedJSON] = []
        skipSpace()
        if take("]") { return .array(elements) }
        repeat {
            elements.append(try value(depth: depth + 1))
            skipSpace()
        } while take(",")
        guard take("]") else { throw problem("',' or ']' is missing") }
        return .array(elements)
    }

    private mutating func object(depth: Int) throws -> OrderedJSON {
        position += 1
        var members: [OrderedJSON.Member] = []
        var places: [String: Int] = [:]
        skipSpace()
        if take("}") { return .object(members) }
        repeat {
            skipSpace()
            guard next == 0x22 else { throw problem("a key is missing") }
            let key = try string()
            skipSpace()
            guard take(":") else { throw problem("':' is missing") }
            let member = OrderedJSON.Member(key, try value(depth: depth + 1))
            if let place = places[key] {
                members[place] = member
            } else {
                places[key] = members.count
                members.append(member)
            }
            skipSpace()
        } while take(",")
        guard take("}") else { throw problem("',' or '}' is missing") }
        return .object(members)
    }

    private mutating func number() throws -> OrderedJSON {
        let start = position
        func digits(_ parser: inout JSONParser) -> Int {
            let first = parser.position
            while let byte = parser.next, (0x30...0x39).contains(byte) { parser.position += 1 }
            return parser.position - first
        }
        _ = take("-")
        let leading = next
        let count = digits(&self)
        guard count > 0, leading != 0x30 || count == 1 else {
            position = start
            throw problem("no value")
        }
        var whole = true
        if take(".") {
            whole = false
            guard digits(&self) > 0 else { throw problem("digits are missing") }
        }
        if take("e") || take("E") {
            whole = false
            if !take("+") { _ = take("-") }
            guard digits(&self) > 0 else { throw problem("digits are missing") }
        }
        let text = String(decoding: bytes[start..<position], as: UTF8.self)
        if whole, let integer = Int(text) { return .integer(integer) }
        guard let number = Double(text), number.isFinite else { throw problem("a number beyond double precision") }
        return .number(number)
    }

    private mutating func string() throws -> String {
        position += 1
        var scalars = String.UnicodeScalarView()
        var start = position
        func flush(_ parser: JSONParser, into scalars: inout String.UnicodeScalarView) throws {
            guard let text = String(bytes: parser.bytes[start..<parser.position], encoding: .utf8) else {
                throw parser.problem("a string is not UTF-8")
            }
            scalars.append(contentsOf: text.unicodeScalars)
        }
        while let byte = next {
            switch byte {
            case 0x22:
                try flush(self, into: &scalars)
                position += 1
                return String(scalars)
            case 0x5c:
                try flush(self, into: &scalars)
                position += 1
                scalars.append(try escape())
                start = position
            case 0..<0x20: throw problem("a control character in a string")
            default: position += 1
            }
        }
        throw problem("a string doesn't end")
    }

    private mutating func escape() throws -> Unicode.Scalar {
        guard let byte = next else { throw problem("a string doesn't end") }
        position += 1
        switch Character(Unicode.Scalar(byte)) {
        case "\"": return "\""
        case "\\": return "\\"
        case "/": return "/"
        case "b": return "\u{8}"
        case "f": return "\u{c}"
        case "n": return "\n"
        case "r": return "\r"
        case "t": return "\t"
        case "u":
            let unit = try codeUnit()
            if let scalar = Unicode.Scalar(unit) { return scalar }
            guard (0xd800..<0xdc00).contains(unit), take("\\"), take("u") else {
                throw problem("half a surrogate pair")
            }
            let low = try codeUnit()
            guard (0xdc00..<0xe000).contains(low),
                let scalar = Unicode.Scalar(0x10000 + (unit - 0xd800) << 10 + (low - 0xdc00))
            else { throw problem("half a surrogate pair") }
            return scalar
        default: throw problem("an unknown escape")
        }
    }

    private mutating func codeUnit() throws -> UInt32 {
        let digits = bytes[position..<min(position + 4, bytes.count)]
        let hexadecimal = digits.allSatisfy { Character(Unicode.Scalar($0)).isHexDigit }
        guard digits.count == 4, hexadecimal, let unit = UInt32(String(decoding: digits, as: UTF8.self), radix: 16)
        else {
            throw problem("four hexadecimal digits are missing")
        }
        position += 4
        return unit
    }
}
