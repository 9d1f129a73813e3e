import ArgumentParser
import Foundation
import SnapFusionKit

/// `sfbench sampler-times`, hidden: what a sampler's step costs the host, for `benchmarks/samplers.py`.
struct SamplerTimes: ParsableCommand {
    static var configuration: CommandConfiguration {
        CommandConfiguration(
            abstract: "Microseconds of a sampler's step on the host, beside any network call.", shouldDisplay: false)
    }

    @Argument(help: "The model's own sampler as in a manifest, a JSON file.")
    var record: String

    @Argument(help: ArgumentHelp("Samplers and their steps.", valueName: "name=steps"))
    var walks: [String]

    @Option(help: "Values of the latents.")
    var count = 4 * 64 * 64

    @Option(help: "Walks of each sampler, of which the best counts.")
    var repeats = 15

    func run() throws {
        let content = try OrderedJSON(parsing: Data(contentsOf: URL(fileURLWithPath: record)))
        let own = try SamplerRecord(parsing: content, file: record)
        let times = try walks.map { walk -> OrderedJSON.Member in
            let parts = walk.split(separator: "=")
            guard parts.count == 2, let steps = Int(parts[1]) else {
                throw UsageError("'\(walk)' is no sampler with its steps; expected ddim=20 say.")
            }
            let name = String(parts[0])
            return OrderedJSON.Member(name, .number(try microseconds(own.named(name), steps: steps)))
        }
        print(OrderedJSON.object(times).serialized(), terminator: "")
    }

    /// Of one call's scaling and step with its draws, in the best walk.
    private func microseconds(_ record: SamplerRecord, steps: Int) throws -> Double {
        var fixed = TorchGenerator(seed: 0)
        let output = fixed.normal(count: count)
        var best = Double.infinity
        for _ in 0..<repeats {
            var sampler = try record.start(steps: steps)
            var noise = TorchGenerator(seed: 0)
            let noiseScale = sampler.noiseScale
            var latents = output.map { $0 * noiseScale }
            var kept: Float = 0
            let start = ContinuousClock.now
            for _ in sampler.timesteps {
                kept += sampler.modelInput(latents)[0]
                latents = try sampler.step(modelOutput: output, latents: latents, noise: &noise).latents
            }
            let seconds = start.secondsSince()
            guard kept.isFinite else { throw UsageError("the walk of '\(record.name)' left the finite numbers.") }
            best = min(best, seconds / Double(sampler.timesteps.count))
        }
        return best * 1e6
    }
}
