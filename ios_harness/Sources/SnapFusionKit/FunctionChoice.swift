/// Height and width of the latents.
public struct LatentSize: Sendable, Equatable, LosslessStringConvertible {
    public let height: Int
    public let width: Int

    public init(height: Int, width: Int) {
        self.height = height
        self.width = width
    }

    /// From "64x48", height first.
    public init?(_ description: String) {
        let parts = description.split(separator: "x", omittingEmptySubsequences: false).map { Int($0) }
        guard parts.count == 2, let height = parts[0], let width = parts[1], height > 0, width > 0 else { return nil }
        self.init(height: height, width: width)
    }

    public var description: String { "\(height)x\(width)" }
}

extension ComponentRecord {
    /// Every function of the package, the one to run first.
    public var allFunctions: [FunctionRecord] {
        [FunctionRecord(function: function, inputs: inputs, outputs: outputs)] + functions
    }

    /// The record with the function that takes latents of `shape` as the one to run; nil if there is none.
    func selecting(latents shape: [Int]) -> ComponentRecord? {
        var others = allFunctions
        guard let index = others.firstIndex(where: { $0.latents == shape }) else { return nil }
        var record = self
        let wanted = others.remove(at: index)
        (record.function, record.inputs, record.outputs) = (wanted.function, wanted.inputs, wanted.outputs)
        record.functions = others
        return record
    }
}

extension FunctionRecord {
    /// Shape of the latents it takes, (B, C, H, W).
    var latents: [Int]? { inputs.first { $0.name == "latents" }?.shape }
}

extension BundleManifest {
    /// The manifest with the functions for another latent size and guidance batch as those to run. Nil keeps what is
    /// selected.
    ///
    /// - Throws: `UsageError` naming what the bundle was exported for.
    public func selecting(latentSize: LatentSize? = nil, guidanceBatch: Int? = nil) throws -> BundleManifest {
        if latentSize == nil && guidanceBatch == nil { return self }
        let size = latentSize ?? LatentSize(height: latents.height, width: latents.width)
        let batch = guidanceBatch ?? guidance.batch
        let unet = components[.unet]?.allFunctions.compactMap(\.latents)
        let available = unet ?? [[guidance.batch] + latents.shape.dropFirst()]
        guard available.contains([batch, latents.channels, size.height, size.width]) else {
            let all = available.map { $0.count == 4 ? "\($0[2])x\($0[3]) and batch \($0[0])" : HostTensor.describe($0) }
            throw UsageError(
                "This bundle has no UNet for latents \(size) and guidance batch \(batch); it was exported for "
                    + "\(all.joined(separator: ", ")).")
        }
        var manifest = self
        for (name, rows) in [(ComponentName.unet, batch), (.decoder, 1)] {
            guard let record = components[name] else { continue }
            guard let selected = record.selecting(latents: [rows, latents.channels, size.height, size.width]) else {
                throw UsageError(
                    "The bundle's \(name) has no function for latents \(size); export it again with "
                        + "--multifunction-decoder.")
            }
            manifest.components[name] = selected
        }
        manifest.latents = LatentsRecord(
            channels: latents.channels, height: size.height, width: size.width,
            pixelsPerLatent: latents.pixelsPerLatent, scalingFactor: latents.scalingFactor)
        manifest.guidance = GuidanceRecord(batch: batch, defaultScale: guidance.defaultScale)
        return manifest
    }
}
