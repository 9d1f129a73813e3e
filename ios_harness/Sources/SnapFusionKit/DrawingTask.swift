import Foundation

/// What a picture that is given changes of a run: what is drawn from the seed, where the walk begins, what stands behind
/// the latents, and what is put back after each step. The same as `sfmobile/sampling/tasks.py`, with its sources.
struct DrawingTask: Sendable {
    enum Kind: Sendable { case fromText, fromPicture, repainting, inpainting, editing }

    /// The noise of a run, in the order in which it is drawn: of the picture's latents, of the walk's start, of the masked
    /// picture's latents.
    struct Drawn: Sendable {
        var posterior: [Float] = []
        var unit: [Float] = []
        var maskedPosterior: [Float] = []
    }

    /// Latents of the picture; what stands behind the noisy ones, (1, C', h, w).
    struct Encoded: Sendable {
        var clean: [Float] = []
        var behind: HostTensor?
    }

    let kind: Kind
    let strength: Double
    /// Of a model that edits.
    let pictureGuidance: Double?
    private let given: GivenPicture?
    private let latents: LatentsRecord
    private let mask: [Float]
    private let isConsistency: Bool

    /// The task of a run on a bundle. Throws `UsageError` for what it needs and isn't given, or has no use for, and
    /// `ComponentError` for a bundle without the encoder.
    init(_ manifest: BundleManifest, _ given: GivenPicture?) throws {
        let (name, task) = (manifest.name, manifest.pipeline.task)
        self.given = given
        latents = manifest.latents
        isConsistency = manifest.pipeline.family == .latentConsistency
        mask = given?.latentMask(pixelsPerLatent: manifest.latents.pixelsPerLatent) ?? []
        guard let given else {
            switch task {
            case .inpainting: throw UsageError("'\(name)' repaints what a mask covers; give a picture and its mask.")
            case .instructedEditing:
                throw UsageError("'\(name)' edits a picture; give one, and say in the prompt what to change.")
            default: (kind, strength, pictureGuidance) = (.fromText, 1, nil)
            }
            return
        }
        guard manifest.components[.encoder] != nil else { throw ComponentError.missing(.encoder) }
        let scale = manifest.latents.pixelsPerLatent
        let (width, height) = (manifest.latents.width * scale, manifest.latents.height * scale)
        guard given.picture.width == width, given.picture.height == height else {
            throw UsageError(
                "'\(name)' draws \(width)x\(height) pixels, and the picture has "
                    + "\(given.picture.width)x\(given.picture.height); bring it to that size first.")
        }
        if task != .instructedEditing, given.pictureGuidance != nil {
            throw UsageError("'\(name)' isn't guided by pictures, as models that edit are; give a strength.")
        }
        switch task {
        case .instructedEditing:
            guard given.mask == nil, given.strength == nil else {
                throw UsageError("'\(name)' edits whole pictures and takes neither a mask nor a strength.")
            }
            (kind, strength, pictureGuidance) = (.editing, 1, given.pictureGuidance ?? 1.5)
        case .inpainting:
            guard given.mask != nil else {
                throw UsageError("'\(name)' repaints what a mask covers; give one, white where to draw.")
            }
            (kind, strength, pictureGuidance) = (.inpainting, given.strength ?? 1, nil)
        default:
            let kept = given.mask != nil
            (kind, strength, pictureGuidance) = (
                kept ? .repainting : .fromPicture, given.strength ?? (kept ? 1 : 0.8), nil
            )
        }
    }

    /// A model that edits is guided by both of its scales or by none, as in diffusers.
    var mayBeGuided: Bool { (pictureGuidance ?? 1) >= 1 }

    /// The walk, and the call that it begins at.
    func start(_ record: SamplerRecord, steps: Int) throws -> (any Sampler, Int) {
        switch kind {
        case .fromText, .editing: return (try record.start(steps: steps), 0)
        default:
            let found = try record.start(steps: steps, strength: strength, allSteps: isConsistency)
            return (found.sampler, found.call)
        }
    }

    /// Draws the run's noise from the seed, in the order in which diffusers' pipeline of the task does.
    func draw(_ generator: inout TorchGenerator, count: Int) -> Drawn {
        var drawn = Drawn()
        let encodesWhole = kind == .fromPicture || kind == .repainting || (kind == .inpainting && strength < 1)
        if encodesWhole { drawn.posterior = generator.normal(count: count) }
        drawn.unit = generator.normal(count: count)
        if kind == .inpainting { drawn.maskedPosterior = generator.normal(count: count) }
        return drawn
    }

    /// - Parameter moments: the encoder.
    func encode(_ drawn: Drawn, _ moments: (HostTensor) async throws -> HostTensor) async throws -> Encoded {
        guard let given else { return Encoded() }
        var encoded = Encoded()
        let factor = Float(latents.scalingFactor)
        func sampled(_ moments: HostTensor, _ unit: [Float]) -> [Float] {
            let (values, count) = (moments.floats, unit.count)
            return unit.indices.map { (index: Int) -> Float in
                let variance: Float = min(max(values[count + index], -30), 20)
                let deviation: Float = exp(0.5 * variance)
                return factor * (values[index] + deviation * unit[index])
            }
        }
        if !drawn.posterior.isEmpty {
            encoded.clean = sampled(try await moments(try given.image(masked: false)), drawn.posterior)
        }
        switch kind {
        case .editing:
            let values = try await moments(try given.image(masked: false)).floats
            encoded.behind = try HostTensor(shape: latents.shape, Array(values.prefix(values.count / 2)))
        case .inpainting:
            let masked = sampled(try await moments(try given.image(masked: true)), drawn.maskedPosterior)
            let shape = [1, latents.channels + 1, latents.height, latents.width]
            encoded.behind = try HostTensor(shape: shape, mask + masked)
        case .fromText, .fromPicture, .repainting: break
        }
        return encoded
    }

    /// What steers the UNet: the prompt's and the picture's encodings, by rows.
    func guidance(
        batch: Int, scale: Double, _ conditional: ClassifierFreeGuidance.Conditions,
        _ unconditional: ClassifierFreeGuidance.Conditions?, _ encoded: Encoded
    ) throws -> ClassifierFreeGuidance {
        func with(_ behind: HostTensor, _ row: ClassifierFreeGuidance.Conditions) -> ClassifierFreeGuidance.Conditions {
            row.merging(["latents": behind]) { _, new in new }
        }
        guard let behind = encoded.behind else {
            return try ClassifierFreeGuidance(
                batch: batch, scale: scale, conditional: conditional, unconditional: unconditional)
        }
        let pictured = unconditional.map { with(behind, $0) }
        guard let pictureGuidance else {
            return try ClassifierFreeGuidance(
                batch: batch, scale: scale, conditional: with(behind, conditional), unconditional: pictured)
        }
        let none = try HostTensor(shape: behind.shape, [Float](repeating: 0, count: behind.count))
        return try ClassifierFreeGuidance(
            batch: batch, scale: scale, conditional: with(behind, conditional),
            unconditional: unconditional.map { with(none, $0) }, pictured: pictured, pictureScale: pictureGuidance)
    }

    /// Latents before the first call.
    func begin(_ sampler: any Sampler, _ drawn: Drawn, _ encoded: Encoded) -> [Float] {
        if kind == .fromPicture || ((kind == .repainting || kind == .inpainting) && strength < 1) {
            return sampler.noised(encoded.clean, drawn.unit)
        }
        let scale = sampler.noiseScale
        return drawn.unit.map { $0 * scale }
    }

    /// The latents behind a step, with what is known of them put back.
    func settle(_ found: [Float], _ sampler: any Sampler, _ drawn: Drawn, _ encoded: Encoded) -> [Float] {
        guard kind == .repainting else { return found }
        let known = sampler.noised(encoded.clean, drawn.unit)
        return found.indices.map { (index: Int) -> Float in
            let covered: Float = mask[index % mask.count]
            return (1 - covered) * known[index] + covered * found[index]
        }
    }

    /// The drawn picture, with what is to stay put back.
    func finish(_ drawn: GeneratedPicture) throws -> GeneratedPicture {
        guard let given, kind == .repainting || kind == .inpainting else { return drawn }
        return try given.pasted(drawn)
    }

    /// What a drawing's metadata says of it.
    var settings: [OrderedJSON.Member] {
        guard let given else { return [] }
        let own = pictureGuidance.map { OrderedJSON.Member("picture_guidance", .number($0)) }
        return given.settings + [own ?? OrderedJSON.Member("strength", .number(strength))]
    }
}
