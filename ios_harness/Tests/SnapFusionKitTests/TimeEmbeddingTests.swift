import SnapFusionKit
import XCTest

final class TimeEmbeddingTests: XCTestCase {
    private struct Golden: Decodable {
        struct Record: Decodable {
            let dimension: Int
            let flipSinToCos: Bool
            let frequencyShift: Double
            let maxPeriod: Double

            enum CodingKeys: String, CodingKey {
                case dimension
                case flipSinToCos = "flip_sin_to_cos"
                case frequencyShift = "frequency_shift"
                case maxPeriod = "max_period"
            }
        }

        let timesteps: [Int]
        let records: [Record]
    }

    func testSinusoidEqualsDiffusers() throws {
        let golden = try GoldenFiles.json("embeddings.json", as: Golden.self)
        var worst: Float = 0
        for (index, record) in golden.records.enumerated() {
            let embedding = try TimeEmbedding(
                TimeEmbeddingRecord(
                    dimension: record.dimension, flipSinToCos: record.flipSinToCos,
                    frequencyShift: record.frequencyShift, maxPeriod: record.maxPeriod))
            let expected = try GoldenFiles.floats("embeddings/\(index).npy")
            for (row, timestep) in golden.timesteps.enumerated() {
                let found = try embedding(timestep: Float(timestep), batch: 1)
                XCTAssertEqual(found.shape, [1, record.dimension, 1, 1])
                let reference = Array(expected[row * record.dimension..<(row + 1) * record.dimension])
                let difference = maxDifference(found.floats, reference)
                worst = max(worst, difference)
                // A frequency that differs in its last bit (2^-24) turns the angle of timestep t by t · 2^-24.
                XCTAssertLessThanOrEqual(difference, 2e-7 + Float(timestep) * 0x1p-23, "timestep \(timestep)")
            }
        }
        print("time embedding: largest difference \(worst)")
    }

    func testAGuidanceScaleIsEmbeddedAsInDiffusers() throws {
        struct Scales: Decodable {
            let scales: [Double]
            let dimension: Int
        }
        let golden = try GoldenFiles.json("guidance_embeddings.json", as: Scales.self)
        let expected = try GoldenFiles.floats("guidance_embeddings.npy")
        for (row, scale) in golden.scales.enumerated() {
            let found = try TimeEmbedding.guidance(scale: scale, dimension: golden.dimension)
            XCTAssertEqual(found.shape, [1, golden.dimension, 1, 1])
            let reference = Array(expected[row * golden.dimension..<(row + 1) * golden.dimension])
            let bound = 2e-7 + Float(abs(scale - 1)) * 1000 * 0x1p-23
            XCTAssertLessThanOrEqual(maxDifference(found.floats, reference), bound, "scale \(scale)")
        }
    }

    func testBatchRepeatsTheRow() throws {
        let embedding = try TimeEmbedding(TimeEmbeddingRecord(dimension: 8))
        let one = try embedding(timestep: 500, batch: 1)
        let two = try embedding(timestep: 500, batch: 2)
        XCTAssertEqual(two.shape, [2, 8, 1, 1])
        XCTAssertEqual(two.floats, one.floats + one.floats)
    }

    func testOddDimensionIsRefused() {
        XCTAssertThrowsError(try TimeEmbedding(TimeEmbeddingRecord(dimension: 7))) { XCTAssertTrue($0 is UsageError) }
    }
}
