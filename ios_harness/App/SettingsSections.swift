import SnapFusionKit
import SwiftUI

/// How it is drawn, and on what.
struct SettingsSections: View {
    @Bindable var session: DrawingSession

    var body: some View {
        Section("Picture settings") {
            Picker("Sampler", selection: $session.form.sampler) {
                ForEach(session.form.offer.samplers, id: \.self) { Text($0).tag($0) }
            }
            Stepper("Steps: \(session.form.steps)", value: $session.form.steps, in: 1...100)
            Stepper(
                "Guidance: \(session.form.guidance.formatted())", value: $session.form.guidance, in: 0...20, step: 0.5
            )
                .accessibilityHint("1 is no guidance; the negative prompt counts only above it")
            TextField("Seed", value: $session.form.seed, format: .number)
                .accessibilityLabel("Seed")
            Button("Another seed") { session.form.seed = Int.random(in: 0...99_999) }
            Toggle("Show each step", isOn: $session.form.showsSteps)
            if session.form.offer.hasSafetyChecker {
                Toggle("Safety checker", isOn: $session.form.isChecked)
                    .accessibilityHint("A picture that it flags is black")
            }
        }
        Section("Engine") {
            Picker("Compute units", selection: $session.computeUnit) {
                ForEach(RuntimeRecord.ComputeUnit.allCases, id: \.self) { unit in
                    Text(unit.title).tag(unit)
                }
            }
            Toggle("One component in memory at a time", isOn: $session.lowMemory)
        }
    }
}

extension RuntimeRecord.ComputeUnit {
    /// For people.
    var title: String {
        switch self {
        case .all: "All"
        case .cpuOnly: "CPU only"
        case .cpuAndGPU: "CPU and GPU"
        case .cpuAndNeuralEngine: "CPU and Neural Engine"
        }
    }
}
