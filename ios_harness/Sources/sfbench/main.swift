import ArgumentParser
import Foundation
import SnapFusionKit

/// The command line. Exit codes are those of `sfmobile`.
struct SFBench: AsyncParsableCommand {
    static var configuration: CommandConfiguration {
        CommandConfiguration(
            commandName: "sfbench",
            abstract: "Draws with, measures and verifies the bundles that sfmobile exports.",
            discussion:
                "Exit codes: 0 ok, 1 a gate failed, 2 usage, 3 this environment can't, 4 an artifact is missing or "
                + "corrupt.",
            subcommands: [Generate.self, Bench.self, Verify.self, Fetch.self, SamplerTimes.self])
    }
}

/// The exit code that Python gives for the same kind of failure.
func exitCode(of error: any Error) -> Int32 {
    switch error {
    case is UsageError: 2
    case is BundleError, is FileFormatError, ComponentError.missing, DownloadError.corrupt: 4
    case ComponentError.nonFinite: 1
    case WorkerError.refused(_, 5, _): 4
    default: 3
    }
}

/// Parses and runs one command line, and says how it ended.
func run(_ words: [String]) async -> Int32 {
    do {
        var command = try SFBench.parseAsRoot(words)
        if var command = command as? any AsyncParsableCommand {
            try await command.run()
        } else {
            try command.run()
        }
        return 0
    } catch let code as ExitCode {
        return code.rawValue
    } catch where SFBench.exitCode(for: error) == .success {
        // Help that was asked for.
        print(SFBench.fullMessage(for: error))
        return 0
    } catch where SFBench.exitCode(for: error) == .validationFailure {
        note(SFBench.fullMessage(for: error))
        return 2
    } catch {
        note("error: \(error)")
        return exitCode(of: error)
    }
}

exit(await run(Array(CommandLine.arguments.dropFirst())))
