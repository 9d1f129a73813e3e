/// A control picture (1, 3, H, W) of the bundle's size, 0 black to 1 white, for the ControlNet `name`.
///
/// As in `sfmobile.sampling.control`: `scale` says how much of it, `start` and `end` the share of the steps before and
/// behind which it is left out.
public struct Control: Sendable {
    public let name: String
    public let picture: HostTensor
    public let scale: Double
    public let start: Double
    public let end: Double

    public init(name: String, picture: HostTensor, scale: Double = 1, start: Double = 0, end: Double = 1) {
        self.name = name
        self.picture = picture
        self.scale = scale
        self.start = start
        self.end = end
    }

    /// Of a picture of the bundle's size.
    public init(
        name: String, of picture: GeneratedPicture, scale: Double = 1, start: Double = 0, end: Double = 1
    ) throws {
        let plane = picture.width * picture.height
        let values = (0..<3 * plane).map { Float(picture.pixels[3 * ($0 % plane) + $0 / plane]) / 255 }
        let tensor = try HostTensor(shape: [1, 3, picture.height, picture.width], values)
        self.init(name: name, picture: tensor, scale: scale, start: start, end: end)
    }

    /// What the bundle calls the ControlNet; nil for a name that none can have.
    var component: ComponentName? { ComponentName(rawValue: "control_\(name)") }

    /// Its scale at call `index` of `count`, 0 where it is left out (diffusers' `controlnet_keep`).
    func share(_ index: Int, of count: Int) -> Double {
        let (begun, ended) = (Double(index) / Double(count), Double(index + 1) / Double(count))
        return begun < start || ended > end ? 0 : scale
    }

    /// Throws `UsageError` for a ControlNet that the bundle hasn't, a picture of another size, or a scale or share that
    /// means nothing.
    func check(in manifest: BundleManifest) throws {
        let factor = manifest.latents.pixelsPerLatent
        let shape = [1, 3, factor * manifest.latents.height, factor * manifest.latents.width]
        guard let component, manifest.pipeline.control.components.contains(component) else {
            let names = manifest.pipeline.control.components.map { $0.rawValue.dropFirst("control_".count) }
            let has = names.isEmpty ? "it has none" : "its are \(names.joined(separator: ", "))"
            throw UsageError(
                "'\(manifest.name)' has no ControlNet '\(name)' (\(has)); export it with --control NAME=DIR.")
        }
        guard picture.shape == shape else {
            throw UsageError(
                "the control picture of '\(name)' has the shape \(HostTensor.describe(picture.shape)); expected "
                    + "\(HostTensor.describe(shape)), 0 black to 1 white.")
        }
        guard scale.isFinite else {
            throw UsageError("the scale \(scale) of '\(name)' makes no sense; expected a number, 1 say.")
        }
        guard start >= 0, start < end, end <= 1 else {
            throw UsageError(
                "'\(name)' controls from \(start) to \(end) of the steps; expected a start below its end, both 0 to 1.")
        }
    }

    /// The sum of what several ControlNets give, each times its scale; zeros of the records' shapes for none.
    static func sum(_ found: [(scale: Double, outputs: [String: HostTensor])], of records: [TensorRecord]) throws
        -> [String: HostTensor]
    {
        var total: [String: HostTensor] = [:]
        for record in records {
            var values = [Float](repeating: 0, count: HostTensor.count(of: record.shape))
            for (index, one) in found.enumerated() {
                guard let added = one.outputs[record.name]?.floats, added.count == values.count else { continue }
                let scale = Float(one.scale)
                for place in values.indices {
                    values[place] = index == 0 ? added[place] * scale : values[place] + added[place] * scale
                }
            }
            total[record.name] = try HostTensor(shape: record.shape, values)
        }
        return total
    }
}
