import SnapFusionKit
import SwiftUI

/// A prompt, the steps as they come, the picture; what was drawn before; and the latency table with its JSON to share.
struct ContentView: View {
    @State private var session = DrawingSession()

    var body: some View {
        NavigationStack {
            Form {
                PromptSection(session: session)
                if session.form.offer.takesPicture { GivenPictureSection(session: session) }
                ForEach(session.form.offer.controlNets, id: \.self) { ControlSection(name: $0, session: session) }
                if !session.message.isEmpty {
                    Section { Text(session.message).font(.footnote) }
                }
                if !session.previews.isEmpty {
                    Section("Steps") { PictureStrip(pictures: session.previews) }
                }
                if let picture = session.picture {
                    Section("Picture") { PictureDetail(picture: picture, session: session) }
                }
                SettingsSections(session: session)
                if !session.history.entries.isEmpty { HistorySection(session: session) }
                if let report = session.report {
                    Section("Latency") {
                        ScrollView(.horizontal) {
                            Text(report.table).font(.system(.caption2, design: .monospaced))
                        }
                        if let file = session.reportFile { ShareLink("Share the JSON", item: file) }
                    }
                }
            }
            .navigationTitle("SFBench")
            .task { session.prepare() }
        }
    }
}

/// What to draw, and the buttons that begin and end it.
struct PromptSection: View {
    @Bindable var session: DrawingSession

    var body: some View {
        Section("Prompt") {
            TextField("What to draw", text: $session.form.prompt, axis: .vertical)
                .accessibilityLabel("Prompt")
            TextField("What it should not look like", text: $session.form.negativePrompt, axis: .vertical)
                .accessibilityLabel("Negative prompt")
            Toggle("Weights as in (word:1.3)", isOn: $session.form.readsWeights)
            if let missing = session.form.missing { Text(missing).font(.footnote) }
            if session.isWorking {
                Button("Cancel", role: .cancel) { session.cancel() }
            } else {
                Button("Draw") { session.draw() }.disabled(session.form.missing != nil)
                Button("Measure") { session.measure() }
            }
        }
    }
}
