import Foundation
import SnapFusionCoreML
import SnapFusionKit

/// What the options say of the engine: which one, and how it runs.
struct Engine: Sendable {
    static let values = [
        "--runtime": "runtime", "--precision": "precision", "--compute-unit": "compute-unit", "--python": "python",
    ]

    let bundle: ModelBundle
    let kind: RuntimeRecord.Engine
    let precision: RuntimeRecord.Precision
    let computeUnit: RuntimeRecord.ComputeUnit
    let python: String

    init(_ arguments: Arguments) throws {
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
        bundle = try ModelBundle(opening: URL(fileURLWithPath: path))
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
            return CoreMLRunner(bundle: bundle, computeUnit: computeUnit)
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
