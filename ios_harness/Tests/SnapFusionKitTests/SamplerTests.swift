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

    /// A picture's latents, noised, under a network that tells that noise: every step of a walk without fresh noise stays
    /// on the line between the two, whose ends no error of a solver's order can bend, and ends at the picture.
    func testAWalkFromAPictureEntersWhereItsStrengthSays() throws {
        let own = try XCTUnwrap(cases().first { $0.name == "euler" }).record
        var generator = TorchGenerator(seed: 2)
        let (clean, unit) = (generator.normal(count: 64), generator.normal(count: 64))
        for name in ["ddim", "euler", "euler-karras", "heun", "dpm++2m", "dpm++2s", "unipc"] {
            let record = try own.named(name)
            var (sampler, call) = try record.start(steps: 10, strength: 0.75, allSteps: false)
            XCTAssertEqual(call, 3 * sampler.callsPerStep, name)
            var latents = sampler.noised(clean, unit)
            for index in call..<sampler.timesteps.count {
                let (signal, noise) = try XCTUnwrap(sampler.amplitudes, name)
                XCTAssertGreaterThan(noise, 0, name)
                let ofLevels = name.hasPrefix("euler") || name == "heun"
                XCTAssertEqual(ofLevels ? signal : signal * signal + noise * noise, 1, accuracy: 1e-6, name)
                let found = try sampler.step(modelOutput: unit, latents: latents, noise: &generator)
                latents = found.latents
                let expected = sampler.noised(clean, unit)
                let isLast = index + 1 == sampler.timesteps.count
                // DDIM ends at the least noise of its schedule.
                XCTAssertLessThanOrEqual(
                    maxDifference(latents, expected), isLast && name == "ddim" ? 0.2 : 1e-3, "\(name), call \(index + 1)")
            }
            XCTAssertNil(sampler.amplitudes, name)
            XCTAssertEqual(sampler.noised(clean, unit), clean, name)
        }
    }

    func testStrengthsThatCanNotBeTakenAreRefused() throws {
        let all = try cases()
        func record(_ name: String) throws -> SamplerRecord { try XCTUnwrap(all.first { $0.name == name }).record }
        for (name, strength, words) in [
            ("euler", 0, "makes no sense"), ("euler", 1.01, "makes no sense"), ("euler", .nan, "makes no sense"),
            ("euler", 0.1, "leaves none of 5 steps"), ("pndm-runge-kutta", 0.5, "can't start from a picture"),
            ("lcm", 0.05, "too few for 5 steps"),
        ] {
            XCTAssertThrowsError(try record(name).start(steps: 5, strength: strength, allSteps: true), name) {
                XCTAssertTrue($0 is UsageError && "\($0)".contains(words), "\($0)")
            }
        }
        XCTAssertEqual(try record("euler").start(steps: 5, strength: 1, allSteps: false).call, 0)
    }

    func testAConsistencyModelWalksAllItsStepsOfAShorterList() throws {
        let lcm = try XCTUnwrap(cases().first { $0.name == "lcm" }).record
        let whole = try lcm.start(steps: 4).timesteps
        let (sampler, call) = try lcm.start(steps: 4, strength: 0.5, allSteps: true)
        XCTAssertEqual(call, 0)
        XCTAssertEqual(sampler.timesteps.count, 4)
        XCTAssertEqual(sampler.timesteps[0], ((whole[0] + 1) / 2).rounded() - 1)
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
