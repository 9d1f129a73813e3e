import SnapFusionKit
import XCTest

final class DDIMTests: XCTestCase {
    private struct Case {
        let name: String
        let steps: Int
        let timesteps: [Int]
        let scheduler: OrderedJSON
    }

    private func record(_ golden: Case) throws -> DDIMRecord {
        guard case .ddim(let record) = try SamplerRecord(parsing: golden.scheduler, file: "ddim.json") else {
            throw UsageError("\(golden.name) is of another sampler.")
        }
        return record
    }

    private func cases() throws -> [Case] {
        let file = try OrderedJSON(parsing: Data(contentsOf: GoldenFiles.golden("ddim.json")))
        return try XCTUnwrap(file.elements).map { golden in
            let timesteps = try XCTUnwrap(golden["timesteps"]?.elements).map { try XCTUnwrap($0.whole) }
            return Case(
                name: try XCTUnwrap(golden["name"]?.text), steps: try XCTUnwrap(golden["steps"]?.whole),
                timesteps: timesteps, scheduler: try XCTUnwrap(golden["scheduler"]))
        }
    }

    func testTimestepsEqualDiffusers() throws {
        for golden in try cases() {
            let found = try DDIM(record(golden), steps: golden.steps).timesteps
            XCTAssertEqual(found, golden.timesteps.map(Float.init), golden.name)
        }
    }

    func testLatentsEqualDiffusersAtEveryStep() throws {
        var worst: Float = 0
        for golden in try cases() {
            var sampler = try DDIM(record(golden), steps: golden.steps)
            var generator = TorchGenerator(seed: 0)
            let outputs = try GoldenFiles.floats("ddim/\(golden.name).outputs.npy")
            let expected = try GoldenFiles.floats("ddim/\(golden.name).latents.npy")
            var latents = Array(expected[0..<64])
            for index in golden.timesteps.indices {
                let output = Array(outputs[index * 64..<(index + 1) * 64])
                latents = try sampler.step(modelOutput: output, latents: latents, noise: &generator).latents
                let difference = maxDifference(latents, Array(expected[(index + 1) * 64..<(index + 2) * 64]))
                XCTAssertLessThanOrEqual(difference, 1e-5, "\(golden.name), step \(index + 1)")
                worst = max(worst, difference)
            }
        }
        print("ddim: \(try cases().count) schedules, largest difference of any step \(worst)")
    }

    func testStepsOutOfRangeAreRefused() throws {
        let record = try record(cases()[0])
        assertThrows(UsageError("expected 1 to 1000 steps, found 0.")) { try DDIM(record, steps: 0) }
        assertThrows(UsageError("expected 1 to 1000 steps, found 1001.")) { try DDIM(record, steps: 1001) }
        // 1000 leading steps with an offset of 1 begin one beyond the last.
        XCTAssertThrowsError(try DDIM(record, steps: 1000)) { XCTAssertTrue($0 is UsageError) }
    }

    func testEpsilonCannotStartFromPureNoise() throws {
        var constants = try record(try XCTUnwrap(cases().first { $0.name == "velocity-zero-snr" }))
        constants.process.predictionType = .epsilon
        XCTAssertThrowsError(try DDIM(constants, steps: 8)) { XCTAssertTrue($0 is UsageError) }
    }

    func testOutputsOfAnotherSizeAreRefused() throws {
        var sampler = try DDIM(record(cases()[0]), steps: 8)
        var generator = TorchGenerator(seed: 0)
        XCTAssertThrowsError(try sampler.step(modelOutput: [1, 2], latents: [1], noise: &generator)) {
            XCTAssertTrue($0 is UsageError)
        }
    }
}
