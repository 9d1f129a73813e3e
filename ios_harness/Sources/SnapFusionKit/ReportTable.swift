import Foundation

extension BenchReport {
    /// The figures for people, with what they were measured on.
    public var table: String {
        var rows = [
            [
                "component", "compile", "first load", "warm load", "first", "median", "p95", "peak memory",
                "NE memory", "NE cost",
            ]
        ]
        for name in components.keys.sorted() {
            guard let one = components[name] else { continue }
            let share = one.placement?.neuralEngineCostShare ?? one.placement?.neuralEngineShare
            rows.append([
                name.rawValue, one.compile.map(milliseconds) ?? "–", milliseconds(one.firstLoad ?? one.coldLoad),
                milliseconds(one.warmLoad), milliseconds(one.firstPrediction), milliseconds(one.predictions.median),
                milliseconds(one.predictions.p95), one.memory.map { megabytes($0.peak.total) } ?? "–",
                one.memory?.peak.neural.map(megabytes) ?? "–", share.map { String(format: "%.0f %%", $0 * 100) } ?? "–",
            ])
        }
        var text = "\(bundle.name) on \(runtime.description)\n" + columns(rows)
        let device = "\(machine.model ?? machine.processor), \(machine.cores) cores, \(machine.os)"
        text += "\(device)\(state); memory of this process alone\n"
        if let loop {
            let average = loop.stepDurations.reduce(0, +) / Double(max(loop.steps, 1))
            text += String(
                format: "%d steps, guidance %g, %d UNet calls: text encoder %@, a step %@, decoder %@, end to end %@\n",
                loop.steps, loop.guidanceScale, loop.unetCalls, milliseconds(loop.textEncoder), milliseconds(average),
                milliseconds(loop.decoder), milliseconds(loop.endToEnd))
        }
        for name in components.keys.sorted() {
            guard let one = components[name], let alone = one.cpuOnlyMedian else { continue }
            text += "\(name) on the CPU alone: \(milliseconds(alone)) a prediction\n"
        }
        if !crashed.isEmpty { text += "the process ended while it measured: \(crashed.joined(separator: ", "))\n" }
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
        if conditions.increasedMemoryEntitlement == true { notes.append("entitled to more memory") }
        if let warnings = conditions.memoryWarnings, warnings > 0 { notes.append("\(warnings) memory warnings") }
        return notes.isEmpty ? "" : "; " + notes.joined(separator: ", ")
    }

    private func milliseconds(_ value: Double) -> String {
        value < 1000 ? String(format: "%.1f ms", value) : String(format: "%.2f s", value / 1e3)
    }

    private func megabytes(_ bytes: Int) -> String { String(format: "%.0f MB", Double(bytes) / 1e6) }

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
