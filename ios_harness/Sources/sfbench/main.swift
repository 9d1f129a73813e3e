import Foundation
import SnapFusionKit

let help = """
    usage: sfbench generate BUNDLE PROMPT... [options]
           sfbench bench BUNDLE [options]
           sfbench verify BUNDLE [options]    the engine against the bundle's golden vectors

    generate  -o FILE.png   the picture; several are numbered     --steps N      DDIM steps
              --seed N      the same seed, the same picture       --guidance X   1 is none
              --negative TEXT                                     --preview      also what each step predicts
              --sheet FILE.png  all pictures side by side
              --low-memory  one component, or chunk, at a time    --vectors DIR  tokens and latents of every step, .npy
    bench     -n N          predictions per component after the first
              --steps N     --guidance X     --no-loop
              -o FILE.json  the report; without it reports/bench.json of the bundle
              --budget FILE exit code 1 if a figure exceeds it
    both      --latent-size HxW --guidance-batch 1|2   another function of a package that has several, with coreml
    all       --runtime auto|coreml|mil|torch|onnx   auto: coreml on Apple's systems, else mil through sfmobile's worker
              --precision fp32|fp16                  evaluation of the mil runtime
              --compute-unit ALL|CPU_AND_NE|CPU_AND_GPU|CPU_ONLY
              --python PROGRAM                       the worker's Python (else $SFMOBILE_PYTHON, else python3)
              --json                                 JSON alone on stdout

    Exit codes: 0 ok, 1 a gate failed, 2 usage, 3 this environment can't, 4 an artifact is missing or corrupt.
    """

/// The exit code that Python gives for the same kind of failure.
func exitCode(of error: any Error) -> Int32 {
    switch error {
    case is UsageError: 2
    case is BundleError, is FileFormatError, ComponentError.missing: 4
    case ComponentError.nonFinite: 1
    case WorkerError.refused(_, 5, _): 4
    default: 3
    }
}

func run(_ words: [String]) async throws -> Int32 {
    let rest = Array(words.dropFirst())
    switch words.first {
    case "generate":
        try await Generate(rest).run()
        return 0
    case "bench": return try await Bench(rest).run() ? 0 : 1
    case "verify": return try await Verify(rest).run() ? 0 : 1
    case "-h", "--help", nil:
        print(help)
        return words.isEmpty ? 2 : 0
    case let unknown?: throw UsageError("there is no command '\(unknown)'; see `sfbench --help`.")
    }
}

let words = Array(CommandLine.arguments.dropFirst())
if words.contains("--help") || words.contains("-h") {
    print(help)
    exit(0)
}
do {
    exit(try await run(words))
} catch {
    note("error: \(error)")
    exit(exitCode(of: error))
}
