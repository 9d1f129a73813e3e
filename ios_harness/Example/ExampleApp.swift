import Observation
import SnapFusionCoreML
import SnapFusionKit
import SwiftUI

/// The least that an app needs: fetch a bundle once, make it ready, draw. Copy it.
@main
struct ExampleApp: App {
    var body: some Scene {
        WindowGroup { ExampleView() }
    }
}

struct ExampleView: View {
    @State private var artist = Artist()
    @State private var prompt = "a red apple"

    var body: some View {
        Form {
            TextField("What to draw", text: $prompt, axis: .vertical)
            Button("Draw") { Task { await artist.draw(prompt) } }
            Text(artist.status).font(.footnote)
            if let image = artist.image {
                Image(uiImage: image).resizable().scaledToFit().accessibilityLabel(prompt)
            }
        }
        .task { await artist.prepare() }
    }
}

@MainActor
@Observable
final class Artist {
    /// Where a bundle lies that `sfmobile export` made: its directory on your server, with manifest.json in it.
    private static let address = URL(string: "https://example.com/models/glyph")

    private(set) var image: UIImage?
    private(set) var status = ""
    private var pipeline: TextToImage?

    /// Fetches the bundle unless it is there, and loads its components one by one.
    func prepare() async {
        await report {
            guard let address = Artist.address else { return }
            let folder = URL.applicationSupportDirectory.appending(path: "glyph")
            let downloader = BundleDownloader(source: HTTPBundleSource(root: address))
            let bundle = try await downloader.download(to: folder) { progress in
                Task { @MainActor in self.status = "\(100 * progress.bytes / max(progress.total, 1)) % fetched" }
            }
            status = "Loading"
            let runner = CoreMLRunner(bundle: bundle, computeUnit: .cpuAndNeuralEngine)
            let pipeline = try TextToImage(bundle: bundle, runner: runner)
            try await pipeline.prewarm()
            self.pipeline = pipeline
        }
    }

    func draw(_ prompt: String) async {
        guard let pipeline else { return }
        await report {
            for try await event in pipeline.run(.init(prompt: prompt, previews: .linear)) {
                switch event {
                case .step(let step):
                    status = "Step \(step.index + 1) of \(step.count)"
                    image = try step.preview?.uiImage()
                case .picture(let picture, _, _): image = try picture.uiImage()
                default: break
                }
            }
        }
    }

    private func report(_ work: () async throws -> Void) async {
        do {
            try await work()
            status = ""
        } catch {
            status = "\(error)"
        }
    }
}
