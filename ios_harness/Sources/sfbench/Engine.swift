import Foundation
import SnapFusionCoreML
import SnapFusionKit

/// What the options say of the engine: which one, and how it runs.
struct Engine: Sendable {
    let bundle: ModelBundle
    let kind: RuntimeRecord.Engine
    let precision: RuntimeRecord.Precision
    let computeUnit: RuntimeRecord.ComputeUnit
    let python: String
    let chunks: ChunkResidency

    /// - Parameter chunks: how many chunks of a component Core ML holds.
    init(
        bundle path: String, _ options: EngineOptions, _ shapes: ShapeOptions? = nil, chunks: ChunkResidency = .all
    ) throws {
        kind = options.runtime.engine ?? Engine.automatic
        if options.computeUnit != nil && kind != .coreml {
            throw UsageError("--compute-unit is for the coreml runtime, not for \(kind.rawValue); leave it out.")
        }
        if options.precision == .fp16 && kind != .mil {
            throw UsageError(
                "--precision fp16 is an evaluation of the mil runtime, not of \(kind.rawValue); leave it out.")
        }
        precision = options.precision ?? .fp32
        computeUnit = options.computeUnit ?? .all
        python = options.python ?? ProcessInfo.processInfo.environment["SFMOBILE_PYTHON"] ?? "python3"
        self.chunks = chunks
        let opened = try ModelBundle(opening: URL(fileURLWithPath: path))
        bundle = try opened.selecting(latentSize: shapes?.latentSize, guidanceBatch: shapes?.guidanceBatch)
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
    func makeRunner() throws -> any ComponentRunner { try makeRunner(on: computeUnit) }

    /// One that runs on the CPU alone, for the control; nil for the other engines, which do anyway.
    var makeControl: (@Sendable () throws -> any ComponentRunner)? {
        guard kind == .coreml, computeUnit != .cpuOnly else { return nil }
        return { try makeRunner(on: .cpuOnly) }
    }

    private func makeRunner(on computeUnit: RuntimeRecord.ComputeUnit) throws -> any ComponentRunner {
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
            return try await ComputePlacement.record(of: name, in: bundle, computeUnit: computeUnit)
        #else
            return nil
        #endif
    }
}
