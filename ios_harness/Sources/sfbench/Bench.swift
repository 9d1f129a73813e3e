import Foundation
import SnapFusionKit

/// `sfbench bench`: latency and memory, with the options and the report of `sfmobile bench`.
struct Bench {
    private let engine: Engine
    private let options: LatencyRecorder.Options
    private let output: URL
    private let budget: Budget?
    private let json: Bool

    init(_ words: [String]) throws {
        let values = [
            "-n": "predictions", "--predictions": "predictions", "--steps": "steps", "--guidance": "guidance",
            "-o": "output", "--output": "output", "--budget": "budget",
        ].merging(Engine.values.merging(Engine.shapes) { first, _ in first }) { first, _ in first }
        let arguments = try Arguments(words, values: values, switches: ["--json", "--loop", "--no-loop"])
        guard arguments.positional.count <= 1 else {
            throw UsageError("one bundle at a time; found \(arguments.positional.count).")
        }
        engine = try Engine(arguments)
        let manifest = engine.bundle.manifest
        let steps = try arguments.number("steps", as: Int.self) ?? manifest.scheduler.defaultSteps
        _ = try DDIM(manifest.scheduler).timesteps(steps: steps)
        let guidance = try arguments.number("guidance", as: Double.self)
        if let guidance { try Guidance.check(scale: guidance) }
        let components = ComponentName.allCases.filter { manifest.components[$0] != nil }
        options = LatencyRecorder.Options(
            predictions: try arguments.number("predictions", as: Int.self) ?? 20, components: components,
            request: Request(prompt: manifest.golden?.prompt ?? "a red apple", steps: steps, guidanceScale: guidance),
            loop: !arguments.has("--no-loop") && components.count == ComponentName.allCases.count)
        output =
            arguments.text("output").map { URL(fileURLWithPath: $0) }
            ?? engine.bundle.root.appendingPathComponent("reports/bench.json")
        budget = try arguments.text("budget").map { try Budget(contentsOf: URL(fileURLWithPath: $0)) }
        json = arguments.has("--json")
    }

    /// Returns whether everything is within the budget.
    func run() async throws -> Bool {
        let recorder = try LatencyRecorder(
            bundle: engine.bundle, options: options, progress: { note("\($0)/\($1) \($2)") },
            makeRunner: { try engine.makeRunner() })
        let report = try await recorder.report(
            machine: .current(), conditions: { await currentConditions() },
            placement: { try await engine.placement($0) })
        let text = report.json.serialized()
        try createFolder(output.deletingLastPathComponent())
        try write(Data(text.utf8), to: output)
        print(json ? text : report.table, terminator: "")
        note("Report: \(output.path)")
        let excesses = budget?.excesses(of: report) ?? []
        for excess in excesses { note("over budget: \(excess)") }
        return excesses.isEmpty
    }
}
