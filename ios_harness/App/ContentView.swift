import SnapFusionKit
import SwiftUI

/// A prompt, the steps as they come, the picture; and the latency table with its JSON to share.
struct ContentView: View {
    @State private var session = DrawingSession()

    var body: some View {
        NavigationStack {
            Form {
                Section("Prompt") {
                    TextField("What to draw", text: $session.prompt, axis: .vertical)
                    Stepper("Seed \(session.seed)", value: $session.seed, in: 0...9999)
                    Toggle("One component in memory at a time", isOn: $session.lowMemory)
                    if session.isWorking {
                        Button("Cancel", role: .cancel) { session.cancel() }
                    } else {
                        Button("Draw") { session.draw() }
                        Button("Measure") { session.measure() }
                    }
                }
                if !session.message.isEmpty {
                    Section { Text(session.message).font(.footnote) }
                }
                if !session.previews.isEmpty {
                    Section("Steps") {
                        ScrollView(.horizontal) {
                            HStack { ForEach(session.previews) { preview($0) } }
                        }
                    }
                }
                if let picture = session.picture {
                    Section("Picture") { image(picture).frame(maxWidth: .infinity) }
                }
                if let report = session.report {
                    Section("Latency") {
                        ScrollView(.horizontal) { Text(report.table).font(.system(.caption2, design: .monospaced)) }
                        if let file = session.reportFile { ShareLink("Share the JSON", item: file) }
                    }
                }
            }
            .navigationTitle("SFBench")
        }
    }

    private func preview(_ preview: DrawingSession.Preview) -> some View {
        VStack {
            image(preview.image).frame(width: 96, height: 96)
            Text("\(preview.id)").font(.caption2)
        }
    }

    private func image(_ image: UIImage) -> some View {
        Image(uiImage: image).resizable().interpolation(.none).scaledToFit()
    }
}
