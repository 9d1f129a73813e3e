import Foundation

/// Reads PNG files (RFC 2083) of every kind: grey, RGB or a palette, 1 to 16 bits a channel, with or without transparency,
/// interlaced or not. Of 16 bits the upper 8 are used, as Python does.
///
/// On Apple's systems pictures of every kind are read by the system; this is for the command line elsewhere.
public enum PNGReader {
    /// More pixels than any picture that a bundle draws.
    private static let mostPixels = 1 << 26

    /// The picture in `data`, transparent parts on white. Throws `FileFormatError` naming `file`.
    public static func picture(_ data: Data, file: String) throws -> GeneratedPicture {
        func broken(_ problem: String) -> FileFormatError { FileFormatError(file: file, problem: problem) }
        let bytes = [UInt8](data)
        guard bytes.starts(with: [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]) else {
            throw broken("it is no PNG; save the picture as one")
        }
        var place = 8
        var header: [UInt8] = []
        var palette: [UInt8] = []
        var alpha: [UInt8] = []
        var packed: [UInt8] = []
        while place + 12 <= bytes.count {
            let length = Int(number(bytes, place))
            let kind = String(decoding: bytes[place + 4..<place + 8], as: UTF8.self)
            guard length <= bytes.count - place - 12 else { throw broken("it is cut; copy it again") }
            let body = bytes[place + 8..<place + 8 + length]
            guard PNG.crc32(Array(bytes[place + 4..<place + 8 + length])) == number(bytes, place + 8 + length) else {
                throw broken("its part \(kind) is damaged; copy it again")
            }
            switch kind {
            case "IHDR": header = Array(body)
            case "PLTE": palette = Array(body)
            case "tRNS": alpha = Array(body)
            case "IDAT": packed += body
            case "acTL": throw broken("it is animated; give a file of one picture")
            default: break
            }
            place += 12 + length
            if kind == "IEND" { break }
        }
        guard header.count == 13 else { throw broken("it has no header; copy it again") }
        let (width, height) = (Int(number(header, 0)), Int(number(header, 4)))
        let depth = Int(header[8])
        guard let channels = [0: 1, 2: 3, 3: 1, 4: 2, 6: 4][header[9]], depths[header[9]]?.contains(depth) == true,
            header[12] <= 1
        else { throw broken("it is of a kind that no PNG has; save the picture again") }
        guard width > 0, height > 0 else { throw broken("it has no pixels; save the picture again") }
        guard width <= mostPixels / height else { throw broken("it is too large; make it smaller") }
        let passes = (header[12] == 0 ? [Pass.whole] : Pass.interlaced).compactMap {
            $0.size(of: width, height, bits: depth * channels)
        }
        guard let rows = Inflate.zlib(packed, count: passes.reduce(0) { $0 + ($1.row + 1) * $1.rows }) else {
            throw broken("its pixels are damaged; copy it again")
        }
        let colours = Colours(type: header[9], depth: depth, palette: palette, alpha: alpha)
        var pixels = [UInt8](repeating: 0, count: 3 * width * height)
        var begun = 0
        for pass in passes {
            let end = begun + (pass.row + 1) * pass.rows
            guard let values = unfiltered(rows[begun..<end], row: pass.row, step: max(1, depth * channels / 8)) else {
                throw broken("its pixels are damaged; copy it again")
            }
            begun = end
            for row in 0..<pass.rows {
                let samples = samples(values[row * pass.row..<(row + 1) * pass.row], depth: depth)
                for column in 0..<pass.columns {
                    let value = samples[column * channels..<(column + 1) * channels]
                    guard let colour = colours.onWhite(Array(value)) else {
                        throw broken("its palette is damaged; copy it again")
                    }
                    let place = 3 * ((pass.top + row * pass.down) * width + pass.left + column * pass.across)
                    pixels.replaceSubrange(place..<place + 3, with: colour)
                }
            }
        }
        return try GeneratedPicture(width: width, height: height, pixels: pixels)
    }

    /// Bits a channel that each type of colour may have.
    private static let depths: [UInt8: [Int]] = [
        0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16],
    ]

    /// The pixels that are stored together: all of them, or one of the seven passes of an interlaced picture.
    private struct Pass {
        let left: Int
        let top: Int
        let across: Int
        let down: Int

        static let whole = Pass(left: 0, top: 0, across: 1, down: 1)
        /// RFC 2083, section 2.6.
        static let interlaced = [
            Pass(left: 0, top: 0, across: 8, down: 8), Pass(left: 4, top: 0, across: 8, down: 8),
            Pass(left: 0, top: 4, across: 4, down: 8), Pass(left: 2, top: 0, across: 4, down: 4),
            Pass(left: 0, top: 2, across: 2, down: 4), Pass(left: 1, top: 0, across: 2, down: 2),
            Pass(left: 0, top: 1, across: 1, down: 2),
        ]

        /// What it holds of a picture, `row` in bytes; nil for nothing.
        func size(of width: Int, _ height: Int, bits: Int) -> Stored? {
            let columns = (width - left + across - 1) / across
            let rows = (height - top + down - 1) / down
            guard width > left, height > top else { return nil }
            return Stored(
                left: left, top: top, across: across, down: down, columns: columns, rows: rows,
                row: (columns * bits + 7) / 8)
        }
    }

    /// A pass over a picture of a size.
    private struct Stored {
        let left: Int
        let top: Int
        let across: Int
        let down: Int
        let columns: Int
        let rows: Int
        let row: Int
    }

    /// What the numbers of a pixel mean.
    private struct Colours {
        let type: UInt8
        let depth: Int
        let palette: [UInt8]
        let alpha: [UInt8]

        /// RGB of 8 bits, transparent parts on white; nil for an entry that the palette hasn't.
        func onWhite(_ value: [Int]) -> [UInt8]? {
            var (colour, opacity): ([Int], Int) = ([], 255)
            switch type {
            case 0:
                colour = [scaled(value[0]), scaled(value[0]), scaled(value[0])]
                if clear == value { opacity = 0 }
            case 2:
                colour = value.map(scaled)
                if clear == value { opacity = 0 }
            case 3:
                guard 3 * value[0] + 3 <= palette.count else { return nil }
                colour = palette[3 * value[0]..<3 * value[0] + 3].map { Int($0) }
                if value[0] < alpha.count { opacity = Int(alpha[value[0]]) }
            case 4: (colour, opacity) = ([scaled(value[0]), scaled(value[0]), scaled(value[0])], scaled(value[1]))
            default: (colour, opacity) = (value[0..<3].map(scaled), scaled(value[3]))
            }
            if opacity == 255 { return colour.map { UInt8($0) } }
            let share = Double(opacity) / 255
            return colour.map { UInt8((Double($0) * share + 255 * (1 - share)).rounded()) }
        }

        /// The one value that is transparent, of grey and RGB.
        private var clear: [Int]? {
            guard alpha.count == 2 || alpha.count == 6 else { return nil }
            return stride(from: 0, to: alpha.count, by: 2).map { Int(alpha[$0]) << 8 | Int(alpha[$0 + 1]) }
        }

        /// A number of so many bits as one of 8.
        private func scaled(_ value: Int) -> Int { depth == 16 ? value >> 8 : value * 255 / ((1 << depth) - 1) }
    }

    /// The numbers that a row holds, of `depth` bits each, the highest bits of a byte first.
    private static func samples(_ row: ArraySlice<UInt8>, depth: Int) -> [Int] {
        if depth == 16 {
            return stride(from: row.startIndex, to: row.endIndex - 1, by: 2).map { Int(row[$0]) << 8 | Int(row[$0 + 1]) }
        }
        if depth == 8 { return row.map { Int($0) } }
        let mask = (1 << depth) - 1
        return row.flatMap { byte in
            stride(from: 8 - depth, through: 0, by: -depth).map { Int(byte) >> $0 & mask }
        }
    }

    private static func number(_ bytes: [UInt8], _ place: Int) -> UInt32 {
        bytes[place..<place + 4].reduce(0) { $0 << 8 | UInt32($1) }
    }

    /// Rows without the filters that stand before each (RFC 2083, section 6); nil for an unknown one.
    private static func unfiltered(_ rows: ArraySlice<UInt8>, row: Int, step: Int) -> [UInt8]? {
        var values: [UInt8] = []
        values.reserveCapacity(rows.count)
        var above = [UInt8](repeating: 0, count: row)
        for start in stride(from: rows.startIndex, to: rows.endIndex, by: row + 1) {
            let filter = rows[start]
            var line = Array(rows[start + 1..<start + 1 + row])
            for index in line.indices {
                let left = index >= step ? Int(line[index - step]) : 0
                let corner = index >= step ? Int(above[index - step]) : 0
                let up = Int(above[index])
                let predicted: Int
                switch filter {
                case 0: predicted = 0
                case 1: predicted = left
                case 2: predicted = up
                case 3: predicted = (left + up) / 2
                case 4: predicted = paeth(left, up, corner)
                default: return nil
                }
                line[index] &+= UInt8(predicted)
            }
            values += line
            above = line
        }
        return values
    }

    private static func paeth(_ left: Int, _ up: Int, _ corner: Int) -> Int {
        let (a, b, c) = (abs(up - corner), abs(left - corner), abs(left + up - 2 * corner))
        return a <= b && a <= c ? left : b <= c ? up : corner
    }
}

/// Unpacks deflate streams (RFC 1951).
enum Inflate {
    private static let lengths: [(base: Int, bits: Int)] = [
        (3, 0), (4, 0), (5, 0), (6, 0), (7, 0), (8, 0), (9, 0), (10, 0), (11, 1), (13, 1), (15, 1), (17, 1), (19, 2), (23, 2),
        (27, 2), (31, 2), (35, 3), (43, 3), (51, 3), (59, 3), (67, 4), (83, 4), (99, 4), (115, 4), (131, 5), (163, 5),
        (195, 5), (227, 5), (258, 0),
    ]
    private static let distances: [(base: Int, bits: Int)] = (0..<30).map { (code: Int) -> (base: Int, bits: Int) in
        if code < 2 { return (base: code + 1, bits: 0) }
        let bits = code / 2 - 1
        return (base: ((2 + code % 2) << bits) + 1, bits: bits)
    }
    private static let order = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]

    /// The `count` bytes of a zlib stream (RFC 1950); nil if it is damaged or holds more or fewer.
    static func zlib(_ bytes: [UInt8], count: Int) -> [UInt8]? {
        guard bytes.count > 6, bytes[0] & 0x0f == 8, bytes[1] & 0x20 == 0 else { return nil }
        let header = Int(bytes[0]) * 256 + Int(bytes[1])
        guard header % 31 == 0 else { return nil }
        var reader = Bits(bytes: bytes, place: 2)
        guard let result = unpack(&reader, count: count), result.count == count else { return nil }
        let end = reader.place
        guard end + 4 <= bytes.count else { return nil }
        let sum = bytes[end..<end + 4].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
        return sum == PNG.adler32(result) ? result : nil
    }

    private static func unpack(_ reader: inout Bits, count: Int) -> [UInt8]? {
        var result: [UInt8] = []
        result.reserveCapacity(count)
        while true {
            guard let isLast = reader.take(1), let kind = reader.take(2) else { return nil }
            switch kind {
            case 0:
                reader.align()
                guard let length = reader.take(16), let inverse = reader.take(16), length == ~inverse & 0xffff,
                    result.count + length <= count
                else { return nil }
                for _ in 0..<length {
                    guard let byte = reader.take(8) else { return nil }
                    result.append(UInt8(byte))
                }
            case 1:
                var fixed = [Int](repeating: 8, count: 288)
                for symbol in 144..<256 { fixed[symbol] = 9 }
                for symbol in 256..<280 { fixed[symbol] = 7 }
                guard let literals = Codes(fixed), let distances = Codes([Int](repeating: 5, count: 30)),
                    block(&reader, literals, distances, count, &result)
                else { return nil }
            case 2:
                guard let (literals, distances) = tables(&reader), block(&reader, literals, distances, count, &result)
                else { return nil }
            default: return nil
            }
            if isLast == 1 {
                reader.align()
                return result
            }
        }
    }

    private static func tables(_ reader: inout Bits) -> (Codes, Codes)? {
        guard let literals = reader.take(5), let distances = reader.take(5), let codes = reader.take(4) else { return nil }
        var short = [Int](repeating: 0, count: 19)
        for index in 0..<codes + 4 {
            guard let length = reader.take(3) else { return nil }
            short[order[index]] = length
        }
        guard let decoder = Codes(short) else { return nil }
        let total = literals + 257 + distances + 1
        var found: [Int] = []
        while found.count < total {
            guard let symbol = decoder.next(&reader) else { return nil }
            switch symbol {
            case 0..<16: found.append(symbol)
            case 16:
                guard let last = found.last, let times = reader.take(2) else { return nil }
                found += [Int](repeating: last, count: times + 3)
            default:
                guard let times = reader.take(symbol == 17 ? 3 : 7) else { return nil }
                found += [Int](repeating: 0, count: times + (symbol == 17 ? 3 : 11))
            }
        }
        guard found.count == total, let first = Codes(Array(found[..<(literals + 257)])),
            let second = Codes(Array(found[(literals + 257)...]))
        else { return nil }
        return (first, second)
    }

    private static func block(
        _ reader: inout Bits, _ literals: Codes, _ spans: Codes, _ count: Int, _ result: inout [UInt8]
    ) -> Bool {
        while let symbol = literals.next(&reader) {
            if symbol == 256 { return true }
            if symbol < 256 {
                guard result.count < count else { return false }
                result.append(UInt8(symbol))
                continue
            }
            guard symbol - 257 < lengths.count else { return false }
            let (base, bits) = lengths[symbol - 257]
            guard let more = reader.take(bits), let span = spans.next(&reader), span < distances.count,
                let further = reader.take(distances[span].bits)
            else { return false }
            let (length, distance) = (base + more, distances[span].base + further)
            guard distance <= result.count, result.count + length <= count else { return false }
            for _ in 0..<length { result.append(result[result.count - distance]) }
        }
        return false
    }

    /// Bits of a stream, the lowest of each byte first.
    private struct Bits {
        let bytes: [UInt8]
        var place: Int
        var bit = 0

        mutating func take(_ count: Int) -> Int? {
            var value = 0
            for index in 0..<count {
                guard place < bytes.count else { return nil }
                value |= Int(bytes[place] >> bit & 1) << index
                bit += 1
                if bit == 8 { (bit, place) = (0, place + 1) }
            }
            return value
        }

        mutating func align() {
            if bit > 0 { (bit, place) = (0, place + 1) }
        }
    }

    /// A Huffman code, given by the length of each symbol's word.
    private struct Codes {
        private var counts = [Int](repeating: 0, count: 16)
        private var symbols: [Int] = []

        /// Nil for more words than there are.
        init?(_ lengths: [Int]) {
            for length in lengths where length > 0 { counts[length] += 1 }
            var left = 1
            for length in 1...15 {
                left = 2 * left - counts[length]
                if left < 0 { return nil }
            }
            for length in 1...15 { symbols += lengths.indices.filter { lengths[$0] == length } }
        }

        func next(_ reader: inout Bits) -> Int? {
            var (code, first, start) = (0, 0, 0)
            for length in 1...15 {
                guard let bit = reader.take(1) else { return nil }
                code |= bit
                if code - first < counts[length] { return symbols[start + code - first] }
                start += counts[length]
                first = (first + counts[length]) << 1
                code <<= 1
            }
            return nil
        }
    }
}
