import Foundation

/// Writes PNG files (RFC 2083) without a compression library: the image data stands in stored deflate blocks.
enum PNG {
    /// An RGB image of 8 bits a channel. `text` becomes uncompressed iTXt chunks; keywords are Latin-1 without NUL.
    static func file(width: Int, height: Int, rgb: [UInt8], text: [(keyword: String, text: String)]) -> Data {
        var data = Data([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])
        var header = Data()
        header.append(bigEndian: UInt32(width))
        header.append(bigEndian: UInt32(height))
        header.append(contentsOf: [8, 2, 0, 0, 0])
        append("IHDR", header, to: &data)
        for entry in text {
            append("iTXt", Data(entry.keyword.utf8) + Data([0, 0, 0, 0, 0]) + Data(entry.text.utf8), to: &data)
        }
        var rows: [UInt8] = []
        rows.reserveCapacity(height * (3 * width + 1))
        for row in 0..<height {
            rows.append(0)
            rows += rgb[row * 3 * width..<(row + 1) * 3 * width]
        }
        append("IDAT", zlib(rows), to: &data)
        append("IEND", Data(), to: &data)
        return data
    }

    private static func append(_ type: String, _ body: Data, to data: inout Data) {
        let content = Data(type.utf8) + body
        data.append(bigEndian: UInt32(body.count))
        data.append(content)
        data.append(bigEndian: crc32([UInt8](content)))
    }

    /// A zlib stream (RFC 1950) of stored blocks (RFC 1951).
    static func zlib(_ bytes: [UInt8]) -> Data {
        var data = Data([0x78, 0x01])
        var start = 0
        repeat {
            let count = min(bytes.count - start, 0xffff)
            data.append(start + count == bytes.count ? 1 : 0)
            data.append(littleEndian: UInt16(count))
            data.append(littleEndian: ~UInt16(count))
            data.append(contentsOf: bytes[start..<start + count])
            start += count
        } while start < bytes.count
        data.append(bigEndian: adler32(bytes))
        return data
    }

    static func crc32(_ bytes: [UInt8]) -> UInt32 {
        ~bytes.reduce(0xffff_ffff) { crcTable[Int(($0 ^ UInt32($1)) & 0xff)] ^ ($0 >> 8) }
    }

    static func adler32(_ bytes: [UInt8]) -> UInt32 {
        var (a, b): (UInt32, UInt32) = (1, 0)
        for byte in bytes {
            a = (a + UInt32(byte)) % 65521
            b = (b + a) % 65521
        }
        return b << 16 | a
    }

    private static let crcTable: [UInt32] = (0..<256).map { index in
        (0..<8).reduce(UInt32(index)) { value, _ in value & 1 == 1 ? 0xedb8_8320 ^ (value >> 1) : value >> 1 }
    }
}
