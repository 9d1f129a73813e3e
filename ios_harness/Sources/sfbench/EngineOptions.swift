import ArgumentParser
import Foundation
import SnapFusionKit

/// The options of every command: which engine, and how it runs.
struct EngineOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "auto, coreml, mil, torch or onnx; auto is coreml on Apple's systems, else mil through sfmobile's worker.",
            valueName: "runtime"))
    var runtime = RuntimeChoice.auto

    @Option(help: "Evaluation of the mil runtime: fp32 or fp16.")
    var precision: RuntimeRecord.Precision?

    @Option(help: "Of Core ML: ALL, CPU_AND_NE, CPU_AND_GPU or CPU_ONLY.")
    var computeUnit: RuntimeRecord.ComputeUnit?

    @Option(help: "The worker's Python (else $SFMOBILE_PYTHON, else python3).")
    var python: String?

    @Flag(help: "JSON alone on stdout.")
    var json = false
}

/// The options of commands that may run another function than the default one.
struct ShapeOptions: ParsableArguments {
    @Option(help: "Height and width of the latents, 48x64 say: another function of a package that has several.")
    var latentSize: LatentSize?

    @Option(help: ArgumentHelp("Batch of the UNet, 1 or 2: another function of the package.", valueName: "batch"))
    var guidanceBatch: Int?
}

/// The engines by name, and the choice to leave it open.
enum RuntimeChoice: String, CaseIterable, ExpressibleByArgument {
    case auto, coreml, mil, torch, onnx

    /// Nil for `auto`.
    var engine: RuntimeRecord.Engine? { RuntimeRecord.Engine(rawValue: rawValue) }
}

extension RuntimeRecord.Precision: @retroactive ExpressibleByArgument {}
extension RuntimeRecord.ComputeUnit: @retroactive ExpressibleByArgument {}

extension LatentSize: @retroactive ExpressibleByArgument {
    public init?(argument: String) { self.init(argument) }
}
