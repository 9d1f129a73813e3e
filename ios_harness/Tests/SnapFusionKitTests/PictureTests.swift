import SnapFusionKit
import XCTest

final class PictureTests: XCTestCase {
    func testPixelsEqualDiffusers() throws {
        let image = try GoldenFiles.array("picture.image.npy").tensor()
        let picture = try GeneratedPicture(image: image)
        XCTAssertEqual([picture.height, picture.width, 3], try GoldenFiles.array("picture.pixels.npy").shape)
        guard case .uint8(let expected) = try GoldenFiles.array("picture.pixels.npy").elements else {
            return XCTFail("the golden pixels aren't bytes")
        }
        XCTAssertEqual(picture.pixels, expected)
    }

    func testPNGHoldsPixelsSettingsAndChecksums() throws {
        // Wide enough for several stored blocks of 65,535 bytes.
        let pixels = (0..<3 * 200 * 150).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        let picture = try GeneratedPicture(
            width: 200, height: 150, pixels: pixels, settings: [.init("prompt", .string("a \"red\"\napple é"))])
        let chunks = try readChunks(picture.png())
        XCTAssertEqual(chunks.map(\.type), ["IHDR", "iTXt", "iTXt", "IDAT", "IEND"])
        XCTAssertEqual(chunks[0].body, [0, 0, 0, 200, 0, 0, 0, 150, 8, 2, 0, 0, 0])
        let text = try XCTUnwrap(chunks[2].body.split(separator: 0).last)
        let settings = try OrderedJSON(parsing: Data(text))
        XCTAssertEqual(settings, .object([.init("prompt", .string("a \"red\"\napple é"))]))
        let rows = try inflateStored(chunks[3].body)
        XCTAssertEqual(rows.count, 150 * 601)
        for row in 0..<150 {
            XCTAssertEqual(rows[row * 601], 0, "no filter")
            XCTAssertEqual(Array(rows[row * 601 + 1..<(row + 1) * 601]), Array(pixels[row * 600..<(row + 1) * 600]))
        }
    }

    func testASheetHasRowsOfFour() throws {
        let pictures = try (1...5).map {
            try GeneratedPicture(width: 2, height: 1, pixels: [UInt8](repeating: $0, count: 6))
        }
        let sheet = try GeneratedPicture(sideBySide: pictures)
        XCTAssertEqual([sheet.width, sheet.height], [8, 2])
        XCTAssertEqual(sheet.pixels[0..<24], [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4])
        XCTAssertEqual(Array(sheet.pixels[24...]), [5, 5, 5, 5, 5, 5] + [UInt8](repeating: 255, count: 18))
        XCTAssertThrowsError(try GeneratedPicture(sideBySide: [])) { XCTAssertTrue($0 is UsageError) }
    }

    func testWrongSizesAreRefused() throws {
        XCTAssertThrowsError(try GeneratedPicture(width: 2, height: 2, pixels: [0])) { XCTAssertTrue($0 is UsageError) }
        let grey = try HostTensor(shape: [1, 1, 2, 2], [Float](repeating: 0, count: 4))
        XCTAssertThrowsError(try GeneratedPicture(image: grey)) { XCTAssertTrue($0 is UsageError) }
    }

    private func readChunks(_ png: Data) throws -> [(type: String, body: [UInt8])] {
        let bytes = [UInt8](png)
        XCTAssertEqual(Array(bytes[0..<8]), [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])
        var position = 8
        var chunks: [(String, [UInt8])] = []
        func number(_ start: Int) -> Int { bytes[start..<start + 4].reduce(0) { $0 << 8 | Int($1) } }
        while position < bytes.count {
            let end = position + 8 + number(position)
            let content = Array(bytes[position + 4..<end])
            // CRC-32 bit by bit, as RFC 2083 defines it.
            var crc: UInt32 = 0xffff_ffff
            for byte in content {
                crc ^= UInt32(byte)
                for _ in 0..<8 { crc = crc & 1 == 1 ? 0xedb8_8320 ^ (crc >> 1) : crc >> 1 }
            }
            XCTAssertEqual(number(end), Int(~crc))
            chunks.append((String(decoding: content[0..<4], as: UTF8.self), Array(content[4...])))
            position = end + 4
        }
        return chunks
    }

    private func inflateStored(_ stream: [UInt8]) throws -> [UInt8] {
        XCTAssertEqual((Int(stream[0]) << 8 | Int(stream[1])) % 31, 0, "zlib header")
        var position = 2
        var bytes: [UInt8] = []
        var last = false
        while !last {
            last = stream[position] == 1
            let count = Int(stream[position + 1]) | Int(stream[position + 2]) << 8
            XCTAssertEqual(count ^ (Int(stream[position + 3]) | Int(stream[position + 4]) << 8), 0xffff)
            bytes += stream[position + 5..<position + 5 + count]
            position += 5 + count
        }
        var (a, b) = (1, 0)
        for byte in bytes {
            a = (a + Int(byte)) % 65521
            b = (b + a) % 65521
        }
        XCTAssertEqual(stream[position...].reduce(0) { $0 << 8 | Int($1) }, b << 16 | a, "Adler-32")
        return bytes
    }
}
