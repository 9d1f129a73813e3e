import Foundation
import SnapFusionKit

/// `sfbench verify`: an engine against the bundle's golden vectors.
struct Verify {
    private let engine: Engine
    private let json: Bool

    init(_ words: [String]) throws {
        let arguments = try Arguments(words, values: Engine.values, switches: ["--json"])
        guard arguments.positional.count <= 1 else {
            throw UsageError("one bundle at a time; found \(arguments.positional.count).")
        }
        engine = try Engine(arguments)
        json = arguments.has("--json")
    }

    /// Returns whether everything passed its gate.
    func run() async throws -> Bool {
        let check = try GoldenCheck(bundle: engine.bundle)
        let runner = try engine.makeRunner()
        let result = try await check.run(on: runner)
        let failures = try check.failures(result)
        if json {
            print(
                JSONValue.object([
                    .init("runtime", .string(try await runner.describe().description)),
                    .init(
                        "components_psnr_db",
                        .object(
                            ComponentName.allCases.compactMap { name in
                                result.components[name].map { .init(name.rawValue, .number($0)) }
                            })),
                    .init("tokens_identical", .bool(result.tokensAreIdentical)),
                    .init("noise_identical", .bool(result.noiseIsIdentical)),
                    .init("latents_max_difference", .array(result.latentDifferences.map { .number(Double($0)) })),
                    .init("image_psnr_db", .number(result.image)),
                    .init("passed", .bool(failures.isEmpty)),
                ]).serialized(), terminator: "")
        } else {
            for name in ComponentName.allCases {
                guard let found = result.components[name] else { continue }
                print(String(format: "%@: %.1f dB, %.0f expected", name.rawValue, found, try check.gate(name)))
            }
            print(
                String(
                    format: "latents: at most %g apart at any step; image %.1f dB", result.latentDifferences.max() ?? 0,
                    result.image))
            let words = [result.tokensAreIdentical, result.noiseIsIdentical].map { $0 ? "identical" : "DIFFERENT" }
            print("tokens \(words[0]), noise \(words[1])")
        }
        for failure in failures { note("failed: \(failure)") }
        return failures.isEmpty
    }
}
