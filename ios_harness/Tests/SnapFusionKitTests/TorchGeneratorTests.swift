import SnapFusionKit
import XCTest

final class TorchGeneratorTests: XCTestCase {
    private struct Draw: Decodable {
        let seed: String
        let counts: [Int]
    }

    func testNoiseEqualsTorchBitForBit() throws {
        let draws = try GoldenFiles.json("noise.json", as: [Draw].self)
        let values = try GoldenFiles.floats("noise.npy")
        var position = 0
        for draw in draws {
            var generator = TorchGenerator(seed: try XCTUnwrap(UInt64(draw.seed)))
            for count in draw.counts {
                let expected = values[position..<position + count].map(\.bitPattern)
                XCTAssertEqual(
                    generator.normal(count: count).map(\.bitPattern), expected, "seed \(draw.seed), \(draw.counts)")
                position += count
            }
        }
        XCTAssertEqual(position, values.count)
        print("noise: \(values.count) values of \(draws.count) draws compared bit for bit")
    }

    func testNothingIsDrawnForNothing() {
        var generator = TorchGenerator(seed: 3)
        XCTAssertEqual(generator.normal(count: 0), [])
        var untouched = TorchGenerator(seed: 3)
        XCTAssertEqual(generator.normal(count: 4), untouched.normal(count: 4))
    }
}
