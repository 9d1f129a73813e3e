import ArgumentParser
import Foundation
import SnapFusionKit

/// `sfbench bench`: latency and memory, with the options and the report of `sfmobile bench`.
struct Bench: AsyncParsableCommand {
    static var configuration: CommandConfiguration {
        CommandConfiguration(
            abstract: "Latency and memory of every component, and of the whole loop.")
    }

    @Argument(help: "The bundle, as sfmobile export made it.")
    var bundle: String

    @Option(name: [.customShort("n"), .long], help: "Predictions of each component after the first.")
    var predictions = 20

    @Option(help: "Sampling steps of the loop; the model's own without it.")
    var steps: Int?

    @Option(help: "Guidance scale of the loop; 1 is none.")
    var guidance: Double?

    @Option(help: "Another sampler of the loop than the model's own: ddim, euler-ancestral, dpm++2m-karras …")
    var sampler: String?

    @Flag(inversion: .prefixedNo, help: "Whether the loop is measured too.")
    var loop = true

    @Option(name: .shortAndLong, help: "The report; without it reports/bench.json of the bundle.")
    var output: String?

    @Option(help: "A budget: exit code 1 if a figure is on the wrong side of its bound.")
    var budget: String?

    @OptionGroup(title: "Shapes")
    var shapes: ShapeOptions

    @OptionGroup(title: "Engine")
    var options: EngineOptions

    func run() async throws {
        let engine = try Engine(bundle: bundle, options, shapes)
        let manifest = engine.bundle.manifest
        let steps = steps ?? manifest.pipeline.defaultSteps
        _ = try (sampler.map(manifest.sampler.named) ?? manifest.sampler).start(steps: steps)
        if let guidance { try ClassifierFreeGuidance.check(scale: guidance) }
        let components = manifest.componentNames
        let request = TextToImage.Request(
            prompt: manifest.golden?.prompt ?? "a red apple", steps: steps, guidanceScale: guidance,
            sampler: sampler)
        let recorder = try LatencyRecorder(
            bundle: engine.bundle,
            options: LatencyRecorder.Options(
                predictions: predictions, components: components, request: request,
                loop: loop && manifest.canDraw,
                control: engine.makeControl == nil || manifest.components[.unet] == nil ? [] : [.unet]),
            progress: { note("\($0)/\($1) \($2)") }, makeRunner: { try engine.makeRunner() })
        let budget = try budget.map { try LatencyBudget(contentsOf: URL(fileURLWithPath: $0)) }
        let report = try await recorder.report(
            machine: .current(),
            device: LatencyRecorder.Device(
                conditions: { await currentConditions() }, placement: { try await engine.placement($0) },
                makeControl: engine.makeControl))
        let text = report.json.serialized()
        let file =
            output.map { URL(fileURLWithPath: $0) } ?? engine.bundle.root.appendingPathComponent("reports/bench.json")
        try createFolder(file.deletingLastPathComponent())
        try write(Data(text.utf8), to: file)
        print(options.json ? text : report.table, terminator: "")
        note("Report: \(file.path)")
        guard let verdict = budget?.verdict(on: report) else { return }
        for skipped in verdict.skipped { note("\(skipped)") }
        for excess in verdict.excesses { note("over budget: \(excess)") }
        if !verdict.excesses.isEmpty { throw ExitCode(1) }
    }
}
