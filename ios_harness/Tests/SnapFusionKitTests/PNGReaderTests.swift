import SnapFusionKit
import XCTest

/// PNG files written here by RFC 2083 and by Pillow, read by the kit.
final class PNGReaderTests: XCTestCase {
    /// 16 × 16 pixels (16 x, 16 y, x · y), as Pillow writes them: codes of the file's own, Sub and Paeth filters.
    private static let ownCodes =
        "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAUUlEQVR42pXLSQ6AIBAEwEZRBBX4/2s9mBDCMvQkdS0DIGtYZACGV8JGqsPOaIJd"
        + "6sMhG4ZTMAtuRgjXkBx8bxlCgwl3jQxPwYf3pwoRiNqQPtUfBvYdLsdKAAAAAElFTkSuQmCC"
    /// The same rows by zlib's fixed codes.
    private static let fixedCodes =
        "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAWElEQVR4AWNkYGAQIAWxgAgGRuIRXAMTkQhZAzMxCE0DC0GEqYEVP8KqgQ0PwqWB"
        + "HRfCo4EDK8KvgRMTEdTAhYaI0cCNjIjUwANHxGvghSCSNPABEaka+AHVHwb2yPIzagAAAABJRU5ErkJggg=="

    private func number(_ value: Int) -> [UInt8] { [24, 16, 8, 0].map { UInt8(value >> $0 & 0xff) } }

    private func chunk(_ kind: String, _ body: [UInt8]) -> [UInt8] {
        let content = Array(kind.utf8) + body
        var crc: UInt32 = 0xffff_ffff
        for byte in content {
            crc ^= UInt32(byte)
            for _ in 0..<8 { crc = crc & 1 == 1 ? 0xedb8_8320 ^ (crc >> 1) : crc >> 1 }
        }
        return number(body.count) + content + number(Int(~crc))
    }

    /// A zlib stream of one stored block.
    private func stored(_ bytes: [UInt8]) -> [UInt8] {
        var (a, b) = (1, 0)
        for byte in bytes {
            a = (a + Int(byte)) % 65521
            b = (b + a) % 65521
        }
        let count = [UInt8(bytes.count & 0xff), UInt8(bytes.count >> 8)]
        return [0x78, 0x01, 1] + count + count.map { ~$0 } + bytes + number(b << 16 | a)
    }

    /// - Parameter rows: of packed pixels, each behind its filter.
    private func file(
        _ width: Int, colour: UInt8, depth: UInt8 = 8, interlaced: UInt8 = 0, rows: [[UInt8]],
        before: [(kind: String, body: [UInt8])] = [], height: Int? = nil
    ) -> Data {
        let header = number(width) + number(height ?? rows.count) + [depth, colour, 0, 0, interlaced]
        var bytes: [UInt8] = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a] + chunk("IHDR", header)
        for (kind, body) in before { bytes += chunk(kind, body) }
        // In two parts, as writers are free to.
        let packed = stored(rows.flatMap { $0 })
        return Data(bytes + chunk("IDAT", Array(packed[..<5])) + chunk("IDAT", Array(packed[5...])) + chunk("IEND", []))
    }

    private func read(_ data: Data) throws -> GeneratedPicture { try PNGReader.picture(data, file: "a.png") }

    private func refused(_ data: Data, _ words: String, line: UInt = #line) {
        XCTAssertThrowsError(try read(data), line: line) {
            XCTAssertTrue($0 is FileFormatError, "\($0)", line: line)
            XCTAssertTrue("\($0)".contains(words) && "\($0)".contains("a.png"), "\($0)", line: line)
        }
    }

    func testWhatIsWrittenIsReadAgain() throws {
        let pixels = (0..<3 * 200 * 150).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        let picture = try GeneratedPicture(width: 200, height: 150, pixels: pixels)
        XCTAssertEqual(try read(picture.png()), picture)
    }

    func testEveryCodeOfDeflateIsRead() throws {
        var expected: [UInt8] = []
        for y in 0..<16 { for x in 0..<16 { expected += [UInt8(16 * x), UInt8(16 * y), UInt8(x * y)] } }
        for text in [PNGReaderTests.ownCodes, PNGReaderTests.fixedCodes] {
            let found = try read(try XCTUnwrap(Data(base64Encoded: text)))
            XCTAssertEqual([found.width, found.height], [16, 16])
            XCTAssertEqual(found.pixels, expected)
        }
    }

    func testEveryColourTypeIsReadOnWhite() throws {
        let grey = file(2, colour: 0, rows: [[0, 10, 200]])
        XCTAssertEqual(try read(grey).pixels, [10, 10, 10, 200, 200, 200])
        let clearGrey = file(2, colour: 0, rows: [[0, 10, 200]], before: [("tRNS", [0, 10])])
        XCTAssertEqual(try read(clearGrey).pixels, [255, 255, 255, 200, 200, 200])
        let colour = file(2, colour: 2, rows: [[0, 1, 2, 3, 4, 5, 6]], before: [("tRNS", [0, 4, 0, 5, 0, 6])])
        XCTAssertEqual(try read(colour).pixels, [1, 2, 3, 255, 255, 255])
        let palette = file(
            3, colour: 3, rows: [[0, 1, 0, 2]], before: [("PLTE", [9, 8, 7, 6, 5, 4, 3, 2, 1]), ("tRNS", [255, 0])])
        XCTAssertEqual(try read(palette).pixels, [255, 255, 255, 9, 8, 7, 3, 2, 1])
        let greyAlpha = file(2, colour: 4, rows: [[0, 10, 255, 0, 51]])
        XCTAssertEqual(try read(greyAlpha).pixels, [10, 10, 10, 204, 204, 204])
        let alpha = file(2, colour: 6, rows: [[0, 1, 2, 3, 255, 0, 100, 255, 51]])
        XCTAssertEqual(try read(alpha).pixels, [1, 2, 3, 204, 224, 255])
    }

    func testFewAndManyBitsAChannelAreRead() throws {
        func grey(_ values: [UInt8]) -> [UInt8] { values.flatMap { [$0, $0, $0] } }
        let black = file(10, colour: 0, depth: 1, rows: [[0, 0b1010_0001, 0b0100_0000]])
        XCTAssertEqual(try read(black).pixels, grey([255, 0, 255, 0, 0, 0, 0, 255, 0, 255]))
        let two = file(3, colour: 0, depth: 2, rows: [[0, 0b0001_1100]], before: [("tRNS", [0, 1])])
        XCTAssertEqual(try read(two).pixels, grey([0, 255, 255]))
        XCTAssertEqual(try read(file(2, colour: 0, depth: 4, rows: [[0, 0x1f]])).pixels, grey([17, 255]))
        let palette: [(kind: String, body: [UInt8])] = [("PLTE", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])]
        for (depth, row) in [(UInt8(1), [UInt8(0), 0b0100_0000]), (2, [0, 0b0001_0000]), (4, [0, 0x01])] {
            XCTAssertEqual(
                try read(file(2, colour: 3, depth: depth, rows: [row], before: palette)).pixels, [1, 2, 3, 4, 5, 6])
        }
        // The upper 8 of 16; one of two transparent values that differ in the lower alone.
        let deep = file(
            2, colour: 2, depth: 16, rows: [[0, 1, 9, 2, 9, 3, 9, 1, 9, 2, 9, 3, 8]], before: [("tRNS", [1, 9, 2, 9, 3, 8])])
        XCTAssertEqual(try read(deep).pixels, [1, 2, 3, 255, 255, 255])
        XCTAssertEqual(try read(file(1, colour: 4, depth: 16, rows: [[0, 10, 7, 51, 0]])).pixels, grey([206]))
    }

    /// Seven passes (RFC 2083, section 2.6): what is stored together lies 8, 4, 2 or 1 pixels apart.
    func testInterlacedPicturesAreRead() throws {
        for (width, height) in [(1, 1), (2, 3), (5, 5), (8, 8), (11, 9)] {
            let steps = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
            func value(_ x: Int, _ y: Int) -> UInt8 { UInt8(truncatingIfNeeded: 7 * x + 31 * y) }
            var rows: [[UInt8]] = []
            for (left, top, across, down) in steps {
                for y in stride(from: top, to: height, by: down) where left < width {
                    rows.append([0] + stride(from: left, to: width, by: across).map { value($0, y) })
                }
            }
            let data = file(width, colour: 0, interlaced: 1, rows: rows, height: height)
            let expected = (0..<height).flatMap { y in (0..<width).flatMap { [UInt8](repeating: value($0, y), count: 3) } }
            XCTAssertEqual(try read(data).pixels, expected, "\(width)x\(height)")
        }
        refused(file(3, colour: 0, interlaced: 1, rows: [[0, 1, 2, 3]], height: 1), "pixels are damaged")
    }

    func testEveryFilterIsUndone() throws {
        let (width, row) = (3, 9)
        let pixels = (0..<5 * row).map { UInt8(truncatingIfNeeded: $0 * $0 * 37 + 11) }
        func at(_ y: Int, _ x: Int) -> Int { y < 0 || x < 0 ? 0 : Int(pixels[y * row + x]) }
        let rows = (0..<5).map { y in
            [UInt8(y)]
                + (0..<row).map { x -> UInt8 in
                    let (a, b, c) = (at(y, x - 3), at(y - 1, x), at(y - 1, x - 3))
                    let p = a + b - c
                    // The first of the nearest, in the order left, above, upper left.
                    let nearest = [a, b, c].min { abs(p - $0) < abs(p - $1) } ?? 0
                    let predicted = [0, a, b, (a + b) / 2, nearest][y]
                    return UInt8(truncatingIfNeeded: at(y, x) - predicted)
                }
        }
        XCTAssertEqual(try read(file(width, colour: 2, rows: rows)).pixels, pixels)
        refused(file(1, colour: 0, rows: [[5, 0]]), "pixels are damaged")
    }

    func testWhatIsNotReadIsRefusedByName() {
        refused(Data("GIF89a".utf8), "no PNG")
        refused(file(8, colour: 2, depth: 1, rows: [[0, 0xff]]), "a kind that no PNG has")
        refused(file(1, colour: 3, depth: 16, rows: [[0, 0, 0]]), "a kind that no PNG has")
        refused(file(1, colour: 5, rows: [[0, 0]]), "a kind that no PNG has")
        refused(file(1, colour: 0, interlaced: 2, rows: [[0, 0]]), "a kind that no PNG has")
        refused(file(1, colour: 0, rows: [[0, 0]], before: [("acTL", number(2) + number(0))]), "animated")
        refused(file(1, colour: 3, rows: [[0, 3]], before: [("PLTE", [1, 2, 3])]), "palette")
        refused(file(0, colour: 0, rows: [[0]]), "no pixels")
        refused(file(1 << 27, colour: 0, rows: [[0]]), "too large")
        // Fewer pixels than the header tells, and more.
        refused(file(2, colour: 0, rows: [[0, 1]]), "pixels are damaged")
        refused(file(1, colour: 0, rows: [[0, 1, 2]]), "pixels are damaged")
    }

    func testCutAndChangedFilesAreRefused() throws {
        let whole = [UInt8](try XCTUnwrap(Data(base64Encoded: PNGReaderTests.ownCodes)))
        let end = whole.count - 12
        for count in 0..<end { XCTAssertThrowsError(try read(Data(whole[..<count])), "\(count) bytes") }
        for place in whole.indices {
            var bytes = whole
            bytes[place] ^= 0x10
            XCTAssertThrowsError(try read(Data(bytes)), "byte \(place)")
        }
    }

    func testDamagedPixelsUnderARightChecksumAreRefused() throws {
        for text in [PNGReaderTests.ownCodes, PNGReaderTests.fixedCodes] {
            let whole = [UInt8](try XCTUnwrap(Data(base64Encoded: text)))
            let packed = Array(whole[41..<whole.count - 16])
            for place in packed.indices {
                for bit in [UInt8(0x01), 0x08, 0x80, 0xff] {
                    var changed = packed
                    changed[place] ^= bit
                    let bytes = Array(whole[..<33]) + chunk("IDAT", changed) + chunk("IEND", [])
                    // Nothing is told by the window and level before the codes, and by the bits that fill the last byte
                    // before the four of the checksum.
                    if let found = try? read(Data(bytes)) {
                        XCTAssertTrue(place < 2 || place == packed.count - 5, "byte \(place)")
                        XCTAssertEqual(found, try read(Data(whole)))
                    }
                }
            }
        }
    }
}
