import SnapFusionKit
import XCTest

/// Every sampler beside diffusers', by the vectors of `tests/golden/samplers` that Python is held to as well.
final class SamplerTests: XCTestCase {
    private struct Case {
        let name: String
        let seed: UInt64
        let steps: Int
        let noiseScale: Double
        let timesteps: [Double]
        let record: SamplerRecord
    }

    private func cases() throws -> [Case] {
        let file = try OrderedJSON(parsing: Data(contentsOf: GoldenFiles.golden("samplers.json")))
        return try XCTUnwrap(file.elements).map { golden in
            Case(
                name: try XCTUnwrap(golden["name"]?.text), seed: UInt64(try XCTUnwrap(golden["seed"]?.whole)),
                steps: try XCTUnwrap(golden["steps"]?.whole), noiseScale: try XCTUnwrap(golden["noise_scale"]?.real),
                timesteps: try XCTUnwrap(golden["timesteps"]?.elements).map { try XCTUnwrap($0.real) },
                record: try SamplerRecord(parsing: try XCTUnwrap(golden["sampler"]), file: "samplers.json"))
        }
    }

    func testEveryStepEqualsDiffusers() throws {
        var worst: Float = 0
        for golden in try cases() {
            var sampler = try golden.record.start(steps: golden.steps)
            XCTAssertEqual(sampler.timesteps.count, golden.timesteps.count, golden.name)
            for (found, expected) in zip(sampler.timesteps, golden.timesteps) {
                XCTAssertEqual(Double(found), expected, accuracy: 1e-3, golden.name)
            }
            XCTAssertEqual(
                Double(sampler.noiseScale), golden.noiseScale, accuracy: 1e-6 * golden.noiseScale, golden.name)
            var generator = TorchGenerator(seed: golden.seed)
            let noiseScale = sampler.noiseScale
            var latents = generator.normal(count: 64).map { $0 * noiseScale }
            // Of every call the network's input and output, and the latents behind it.
            let rows = try GoldenFiles.floats("samplers/\(golden.name).npy")
            for call in sampler.timesteps.indices {
                let row = (0..<3).map { Array(rows[(call * 3 + $0) * 64..<(call * 3 + $0 + 1) * 64]) }
                XCTAssertLessThanOrEqual(
                    maxDifference(sampler.modelInput(latents), row[0]), 3e-5, "\(golden.name), input \(call + 1)")
                let size = latents.reduce(1) { max($0, abs($1)) }
                let found = try sampler.step(modelOutput: row[1], latents: latents, noise: &generator)
                let difference = maxDifference(found.latents, row[2]) / size
                XCTAssertLessThanOrEqual(difference, 1e-5, "\(golden.name), call \(call + 1)")
                worst = max(worst, difference)
                latents = row[2]
            }
            XCTAssertThrowsError(try sampler.step(modelOutput: latents, latents: latents, noise: &generator))
        }
        print("samplers: \(try cases().count) walks, largest difference of any step \(worst) of the latents' size")
    }

    func testEveryNamedSamplerStarts() throws {
        let own = try XCTUnwrap(cases().first { $0.name == "euler" }).record
        for name in SamplerRecord.names {
            let record = try own.named(name)
            XCTAssertEqual(record.name, name)
            XCTAssertGreaterThan(try record.start(steps: 4).timesteps.count, 3)
        }
        XCTAssertThrowsError(try own.named("dreams")) { XCTAssertTrue("\($0)".contains("no sampler 'dreams'")) }
    }

    func testEtaIsOfSamplersThatHaveOne() throws {
        let own = try XCTUnwrap(cases().first { $0.name == "euler" }).record
        XCTAssertThrowsError(try own.with(eta: 0.5)) { XCTAssertTrue("\($0)".contains("'euler' has no eta"), "\($0)") }
        XCTAssertThrowsError(try own.named("tcd").with(eta: 1.5)) { XCTAssertTrue("\($0)".contains("eta of 1.5")) }
        let latents = [Float](repeating: 0.5, count: 64)
        for name in ["ddim", "tcd"] {
            let steps = try [0, 1].map { eta in
                var sampler = try own.named(name).with(eta: eta).start(steps: 4)
                var noise = TorchGenerator(seed: 1)
                return try sampler.step(modelOutput: latents, latents: latents, noise: &noise).latents
            }
            XCTAssertEqual(Set(steps[0]).count, 1, "\(name) without eta draws nothing")
            XCTAssertGreaterThan(Set(steps[1]).count, 32, "\(name) with eta draws")
        }
    }

    func testASamplerThatCanNotWalkTheModelIsRefusedWithThoseThatCan() throws {
        guard case .euler(var record) = try XCTUnwrap(cases().first { $0.name == "euler-zero-snr" }).record else {
            return XCTFail("no Euler record")
        }
        record.process.predictionType = .epsilon
        XCTAssertThrowsError(try SamplerRecord.euler(record).named("ddim")) {
            XCTAssertTrue("\($0)".contains("these can: euler, euler-karras"), "\($0)")
        }
    }

    func testStepsThatCanNotBeTakenAreRefused() throws {
        let all = try cases()
        func record(_ name: String) throws -> SamplerRecord { try XCTUnwrap(all.first { $0.name == name }).record }
        for (name, steps) in [
            ("euler", 0), ("euler", 1001), ("dpm++2m", 1000), ("pndm-runge-kutta", 3), ("lcm", 51), ("tcd", 51),
        ] {
            XCTAssertThrowsError(try record(name).start(steps: steps), name) { XCTAssertTrue($0 is UsageError) }
        }
    }
}
