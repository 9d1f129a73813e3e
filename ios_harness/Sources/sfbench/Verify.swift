import ArgumentParser
import Foundation
import SnapFusionKit

/// `sfbench verify`: an engine against the bundle's golden vectors.
struct Verify: AsyncParsableCommand {
    static var configuration: CommandConfiguration {
        CommandConfiguration(abstract: "The engine against the bundle's golden vectors.")
    }

    @Argument(help: "The bundle, as sfmobile export made it.")
    var bundle: String

    @OptionGroup(title: "Engine")
    var options: EngineOptions

    func run() async throws {
        let engine = try Engine(bundle: bundle, options)
        let check = try GoldenCheck(bundle: engine.bundle)
        let runner = try engine.makeRunner()
        let result = try await check.run(on: runner)
        let failures = try check.failures(result, on: engine.kind)
        if options.json {
            print(
                OrderedJSON.object([
                    .init("runtime", .string(try await runner.describe().description)),
                    .init(
                        "components_psnr_db",
                        .object(
                            result.components.keys.sorted().compactMap { name in
                                result.components[name].map { .init(name.rawValue, .number($0)) }
                            })),
                    .init("tokens_identical", .bool(result.tokensAreIdentical)),
                    .init("noise_identical", .bool(result.noiseIsIdentical)),
                    .init("latents_max_difference", .array(result.latentDifferences.map { .number(Double($0)) })),
                    .init("image_psnr_db", .number(result.image)),
                    .init("passed", .bool(failures.isEmpty)),
                ]).serialized(), terminator: "")
        } else {
            for name in result.components.keys.sorted() {
                guard let found = result.components[name] else { continue }
                let gate = try check.gate(name, on: engine.kind)
                print(String(format: "%@: %.1f dB, %.0f expected", name.rawValue, found, gate))
            }
            print(
                String(
                    format: "latents: at most %g apart at any step; image %.1f dB", result.latentDifferences.max() ?? 0,
                    result.image))
            let words = [result.tokensAreIdentical, result.noiseIsIdentical].map { $0 ? "identical" : "DIFFERENT" }
            print("tokens \(words[0]), noise \(words[1])")
        }
        for failure in failures { note("failed: \(failure)") }
        if !failures.isEmpty { throw ExitCode(1) }
    }
}
