import SnapFusionKit
import XCTest

final class NumpyArrayTests: XCTestCase {
    private func array(_ name: String) throws -> NumpyArray { try GoldenFiles.array("arrays/\(name).npy") }

    func testReadsWhatNumPyWrites() throws {
        let small = Float(bitPattern: 0x3380_0000)  // 6e-8 in half precision: its smallest number, 2^-24
        XCTAssertEqual(try array("float16").elements, .float32([0, 1, -2.5, 65504, small, 100]))
        XCTAssertEqual(try array("float32").elements, .float32([0, 1, -2.5, 65504, 6e-8, 100]))
        XCTAssertEqual(try array("float64").elements, .float64([0, 1, -2.5, 65504, 6e-8, 100]))
        XCTAssertEqual(try array("int32").elements, .int32([.min, -1, 0, .max]))
        XCTAssertEqual(try array("int64").elements, .int64([-2_147_483_648, -1, 0, 2_147_483_647]))
        XCTAssertEqual(try array("uint64").elements, .uint64([0, 1 << 63, .max]))
        XCTAssertEqual(try array("uint8").elements, .uint8(Array(0...255)))
        XCTAssertEqual(try array("float32").shape, [2, 3])
        XCTAssertEqual(try array("uint8").shape, [4, 8, 8])
        XCTAssertEqual(try array("scalar"), NumpyArray(shape: [], elements: .float32([0.1])))
        XCTAssertEqual(try array("empty"), NumpyArray(shape: [0, 4], elements: .float32([])))
    }

    func testWritesTheBytesNumPyWrites() throws {
        for name in ["float32", "float64", "int32", "int64", "uint64", "uint8", "scalar", "empty"] {
            XCTAssertEqual(
                try array(name).serialized(), try Data(contentsOf: GoldenFiles.golden("arrays/\(name).npy")), name)
        }
    }

    func testFortranOrderIsRefused() throws {
        XCTAssertThrowsError(try array("fortran")) {
            XCTAssertEqual(($0 as? FileFormatError)?.problem, "it is in Fortran order")
        }
    }

    func testEveryTruncationIsRefused() throws {
        let whole = try Data(contentsOf: GoldenFiles.golden("arrays/float32.npy"))
        for count in 0..<whole.count {
            XCTAssertThrowsError(try NumpyArray(parsing: whole.prefix(count), file: "cut.npy")) {
                XCTAssertEqual(($0 as? FileFormatError)?.file, "cut.npy")
            }
        }
    }

    func testLyingHeadersAreRefused() throws {
        let whole = String(
            decoding: try Data(contentsOf: GoldenFiles.golden("arrays/scalar.npy"))[10...], as: UTF8.self)
        XCTAssertTrue(whole.contains("'shape': ()"))
        let bytes = [UInt8](try Data(contentsOf: GoldenFiles.golden("arrays/int32.npy")))
        for (old, new) in [("(4,)", "(5,)"), ("(4,)", "(-4)"), ("(4,)", "(x,)"), ("<i4", "<c8"), ("shape", "shake")] {
            var changed = bytes
            let place = try XCTUnwrap(
                (0..<changed.count - old.utf8.count).first { changed[$0...].starts(with: old.utf8) })
            changed.replaceSubrange(place..<place + old.utf8.count, with: new.utf8)
            XCTAssertThrowsError(try NumpyArray(parsing: Data(changed), file: "x.npy"), new) {
                XCTAssertTrue($0 is FileFormatError)
            }
        }
    }
}
