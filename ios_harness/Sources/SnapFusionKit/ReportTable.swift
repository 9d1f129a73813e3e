import Foundation

extension BenchReport {
    /// The figures for people, with what they were measured on.
    public var table: String {
        var rows = [["component", "cold load", "warm load", "first", "median", "p95", "peak memory", "NE share"]]
        for name in ComponentName.allCases {
            guard let one = components[name] else { continue }
            let share = one.placement?.neuralEngineShare.map { String(format: "%.0f %%", $0 * 100) } ?? "–"
            rows.append([
                name.rawValue, milliseconds(one.coldLoad), milliseconds(one.warmLoad),
                milliseconds(one.firstPrediction),
                milliseconds(one.predictions.median), milliseconds(one.predictions.p95),
                one.memory.map { String(format: "%.0f MB", Double($0.peak.total) / 1e6) } ?? "–", share,
            ])
        }
        var text = "\(bundle.name) on \(runtime.description)\n" + columns(rows)
        text += "\(machine.model ?? machine.processor), \(machine.cores) cores, \(machine.os)\(state)\n"
        if let loop {
            let average = loop.stepDurations.reduce(0, +) / Double(max(loop.steps, 1))
            text += String(
                format: "%d steps, guidance %g, %d UNet calls: text encoder %@, a step %@, decoder %@, end to end %@\n",
                loop.steps, loop.guidanceScale, loop.unetCalls, milliseconds(loop.textEncoder), milliseconds(average),
                milliseconds(loop.decoder), milliseconds(loop.endToEnd))
        }
        return text
    }

    /// What must be known to believe the figures; empty if there is nothing.
    private var state: String {
        var notes: [String] = []
        let thermal = [conditions.thermalStateBefore, conditions.thermalStateAfter].compactMap { $0 }
        if thermal.contains(where: { $0 != .nominal }) {
            notes.append("thermal state " + thermal.map(\.rawValue).joined(separator: " to "))
        }
        if conditions.lowPowerMode == true { notes.append("low power mode") }
        if let warnings = conditions.memoryWarnings, warnings > 0 { notes.append("\(warnings) memory warnings") }
        return notes.isEmpty ? "" : "; " + notes.joined(separator: ", ")
    }

    private func milliseconds(_ value: Double) -> String {
        value < 1000 ? String(format: "%.1f ms", value) : String(format: "%.2f s", value / 1e3)
    }

    private func columns(_ rows: [[String]]) -> String {
        let widths = (rows.first ?? []).indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
        return rows.map { row in
            row.enumerated().map { column, cell in
                let space = String(repeating: " ", count: widths[column] - cell.count)
                return column == 0 ? cell + space : space + cell
            }.joined(separator: "  ") + "\n"
        }.joined()
    }
}
