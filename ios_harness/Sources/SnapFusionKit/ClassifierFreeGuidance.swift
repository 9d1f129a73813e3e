/// Classifier-free guidance (arXiv 2207.12598): unconditional + scale · (conditional − unconditional).
///
/// With a UNet of batch 2 one call, rows (unconditional, conditional); with batch 1 two calls. At a scale of 1 or less
/// there is no unconditional prediction: a UNet of batch 1 is called once; one of batch 2, whose shape is fixed, gets
/// the conditional text in both rows and its first row is used. A UNet that takes the scale as an input is called once.
///
/// A model that edits pictures is guided by both (arXiv 2211.09800, equation 3), of three rows: unconditional +
/// pictureScale · (pictured − unconditional) + scale · (conditional − pictured). Batch 1 takes three calls, batch 2 two.
public struct ClassifierFreeGuidance: Sendable {
    public let batch: Int
    public let scale: Float
    /// Inputs of the UNet beside latents and time, by name, each of one row; "latents" is what stands behind the noisy ones.
    public typealias Conditions = [String: HostTensor]

    public let conditional: Conditions
    /// The same for the negative prompt; nil if the scale needs none, or is one of the conditions.
    public let unconditional: Conditions?
    /// Of a model that edits: the negative prompt with the picture, which `unconditional` is without.
    public let pictured: Conditions?
    public let pictureScale: Float
    /// What the UNet gets of them, call by call: made once, so that a runner can keep its own copy.
    private let rows: [Conditions]

    /// A scale is finite and not negative. Throws `UsageError`.
    public static func check(scale: Double) throws {
        guard scale.isFinite, scale >= 0 else {
            throw UsageError("the guidance scale \(scale) makes no sense; expected 1 (none) or more, 7.5 say.")
        }
    }

    /// Whether `scale` needs the unconditional prediction.
    public static func isGuided(_ scale: Double) -> Bool { scale > 1 }

    /// Hidden states have the shape (1, C, 1, S). Throws `UsageError` for another batch than 1 and 2.
    public init(
        batch: Int, scale: Double, conditional: Conditions, unconditional: Conditions?, pictured: Conditions? = nil,
        pictureScale: Double = 1
    ) throws {
        self.batch = batch
        self.scale = Float(scale)
        self.conditional = conditional
        self.unconditional = unconditional
        self.pictured = pictured
        self.pictureScale = Float(pictureScale)
        func both(_ first: Conditions, _ second: Conditions) throws -> Conditions {
            var joined: Conditions = [:]
            for (name, row) in first { joined[name] = try HostTensor.concatenating([row, second[name] ?? row]) }
            return joined
        }
        let each = [unconditional, unconditional == nil ? nil : pictured, conditional].compactMap { $0 }
        switch batch {
        case 1: rows = each
        // A batch that isn't full takes its last row again.
        case 2:
            rows = try stride(from: 0, to: each.count, by: 2).map { (first: Int) -> Conditions in
                try both(each[first], first + 1 < each.count ? each[first + 1] : conditional)
            }
        default: throw UsageError("a guidance batch of \(batch) is neither 1 nor 2.")
        }
    }

    /// How often the UNet is called for one step.
    public var calls: Int { rows.count }

    /// The guided output (1, C, H, W) for latents of that shape. `embedding` is of the UNet's batch.
    ///
    /// - Parameter predict: one call of the UNet, from its inputs to its output.
    public func callAsFunction(
        latents: HostTensor, embedding: HostTensor, predict: @Sendable ([String: HostTensor]) async throws -> HostTensor
    ) async throws -> HostTensor {
        let repeated = batch == 2 ? try HostTensor.concatenating([latents, latents]) : latents
        var outputs: [HostTensor] = []
        for conditions in rows {
            let noisy = try conditions["latents"].map { try HostTensor.joining(repeated, $0) } ?? repeated
            let given: Conditions = ["latents": noisy, "time_embedding": embedding]
            let output = try await predict(given.merging(conditions) { first, _ in first })
            outputs += try output.split(into: batch)
        }
        guard unconditional != nil else { return outputs[0] }
        let first = outputs[0].floats
        guard pictured != nil else {
            let combined = ClassifierFreeGuidance.combine(first, outputs[1].floats, scale: scale)
            return try HostTensor(shape: latents.shape, combined)
        }
        let (second, third, byText, byPicture) = (outputs[1].floats, outputs[2].floats, scale, pictureScale)
        let combined = first.indices.map { (index: Int) -> Float in
            let guided: Float = first[index] + byText * (third[index] - second[index])
            return guided + byPicture * (second[index] - first[index])
        }
        return try HostTensor(shape: latents.shape, combined)
    }

    /// unconditional + scale · (conditional − unconditional), in float32.
    public static func combine(_ unconditional: [Float], _ conditional: [Float], scale: Float) -> [Float] {
        zip(unconditional, conditional).map { $0 + scale * ($1 - $0) }
    }
}
