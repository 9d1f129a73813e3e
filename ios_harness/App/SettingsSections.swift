import SnapFusionKit
import SwiftUI

/// How it is drawn, and on what.
struct SettingsSections: View {
    @Bindable var session: DrawingSession

    var body: some View {
        Section("Picture settings") {
            Stepper("Steps: \(session.steps)", value: $session.steps, in: 1...100)
            Stepper("Guidance: \(session.guidance.formatted())", value: $session.guidance, in: 1...20, step: 0.5)
                .accessibilityHint("1 is no guidance; the negative prompt counts only above it")
            TextField("Seed", value: $session.seed, format: .number)
                .accessibilityLabel("Seed")
            Button("Another seed") { session.seed = Int.random(in: 0...99_999) }
            Toggle("Show each step", isOn: $session.showsSteps)
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
