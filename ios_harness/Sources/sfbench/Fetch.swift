import ArgumentParser
import Foundation
import SnapFusionKit

/// `sfbench fetch`: a bundle from a server, as an app would fetch it.
struct Fetch: AsyncParsableCommand {
    static var configuration: CommandConfiguration {
        CommandConfiguration(
            abstract: "A bundle from a server, checked file by file; goes on where it was broken off.")
    }

    @Argument(help: "The address of the bundle's directory.", transform: Fetch.address)
    var address: URL

    @Option(name: .shortAndLong, help: "Where the bundle is put.")
    var output: String

    @Option(help: "The manifest's own SHA-256, if it is known.")
    var sha256: String?

    @Option(help: "Transfers of one file that may break off without a byte more than before.")
    var attempts = 4

    @Option(help: "Seconds before the next attempt, doubled each time.")
    var pause = 1.0

    func run() async throws {
        var downloader = BundleDownloader(source: HTTPBundleSource(root: address), manifestSHA256: sha256)
        guard attempts >= 1, pause >= 0 else {
            throw UsageError("expected 1 or more attempts, and a pause of 0 or more.")
        }
        downloader.attempts = attempts
        downloader.pause = pause
        let bundle = try await downloader.download(to: URL(fileURLWithPath: output))
        let files = "\(bundle.manifest.files.count) files"
        print("\(output): \(bundle.manifest.name), \(files), SHA-256 \(bundle.manifestSHA256)")
    }

    private static func address(_ text: String) throws -> URL {
        guard let url = URL(string: text), url.scheme == "http" || url.scheme == "https" else {
            throw ValidationError("'\(text)' is no address of http or https.")
        }
        return url
    }
}
