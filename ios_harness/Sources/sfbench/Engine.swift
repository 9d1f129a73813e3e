import Foundation
import SnapFusionCoreML
import SnapFusionKit

/// What the options say of the engine: which one, and how it runs.
struct Engine: Sendable {
    static let values = [
        "--runtime": "runtime", "--precision": "precision", "--compute-unit": "compute-unit", "--python": "python",
    ]
    /// Of the commands that may run another function than the default one.
    static let shapes = ["--latent-size": "latent-size", "--guidance-batch": "guidance-batch"]

    let bundle: ModelBundle
    let kind: RuntimeRecord.Engine
    let precision: RuntimeRecord.Precision
    let computeUnit: RuntimeRecord.ComputeUnit
    let python: String
    let chunks: ChunkResidency

    /// - Parameter chunks: how many chunks of a component Core ML holds.
    init(_ arguments: Arguments, chunks: ChunkResidency = .all) throws {
        guard let path = arguments.positional.first else {
            throw UsageError("expected a bundle; see `sfbench --help`.")
        }
        let asked =
            arguments.text("runtime") == "auto" ? nil : try arguments.choice("runtime", as: RuntimeRecord.Engine.self)
        let precision = try arguments.choice("precision", as: RuntimeRecord.Precision.self)
        let unit = try arguments.choice("compute-unit", as: RuntimeRecord.ComputeUnit.self)
        kind = asked ?? Engine.automatic
        if unit != nil && kind != .coreml {
            throw UsageError("--compute-unit is for the coreml runtime, not for \(kind.rawValue); leave it out.")
        }
        if precision == .fp16 && kind != .mil {
            throw UsageError(
                "--precision fp16 is an evaluation of the mil runtime, not of \(kind.rawValue); leave it out.")
        }
        self.precision = precision ?? .fp32
        computeUnit = unit ?? .all
        python = arguments.text("python") ?? ProcessInfo.processInfo.environment["SFMOBILE_PYTHON"] ?? "python3"
        self.chunks = chunks
        let opened = try ModelBundle(opening: URL(fileURLWithPath: path))
        bundle = try opened.selecting(
            latentSize: try arguments.number("latent-size", as: LatentSize.self),
            guidanceBatch: try arguments.number("guidance-batch", as: Int.self))
        if kind != .coreml && bundle.manifest != opened.manifest {
            throw UsageError(
                "the \(kind.rawValue) runtime runs a bundle's default functions here; leave out --latent-size and "
                    + "--guidance-batch.")
        }
    }

    private static var automatic: RuntimeRecord.Engine {
        #if canImport(CoreML)
            .coreml
        #else
            .mil
        #endif
    }

    /// A fresh runner. Throws `UnavailableError` for Core ML where there is none.
    func makeRunner() throws -> any ComponentRunner {
        guard kind == .coreml else {
            return ProcessRunner(python: python, bundle: bundle, engine: kind, precision: precision)
        }
        #if canImport(CoreML)
            return CoreMLRunner(bundle: bundle, computeUnit: computeUnit, chunks: chunks)
        #else
            throw UnavailableError("Core ML is only on Apple's systems; use --runtime mil.")
        #endif
    }

    /// Where Core ML runs a component's operations; nil for the other engines.
    func placement(_ name: ComponentName) async throws -> PlacementRecord? {
        #if canImport(CoreML)
            guard kind == .coreml else { return nil }
            return try await Placement.record(of: name, in: bundle, computeUnit: computeUnit)
        #else
            return nil
        #endif
    }
}
