import Foundation

/// What a screen asks of a bundle, field by field, and the request that this makes: all of an app's form but its views.
public struct DrawingForm: Sendable, Equatable {
    public var prompt = "a red apple"
    public var negativePrompt = ""
    /// Whether (word:1.3) and BREAK mean something in both prompts.
    public var readsWeights = false
    public var seed = 0
    public var steps = 8
    public var guidance = 7.5
    /// One of `offer.samplers`.
    public var sampler = ""
    public var showsSteps = true
    /// Whether a picture is looked at before it is shown; means something where the bundle has what that takes.
    public var isChecked = true
    /// Where the picture that is given is drawn anew.
    public var mask = MaskDrawing()
    /// Of a model that edits, how close to keep to the picture.
    public var pictureGuidance = 1.5
    /// The picture to start from, of the bundle's size.
    public private(set) var picture: GeneratedPicture?
    /// Pictures for ControlNets, by their names.
    public private(set) var controls: [String: ControlField] = [:]
    public private(set) var offer = Offer()
    private var strengthOfPicture = 0.8
    private var strengthOfMask = 1.0

    /// A control picture and how much of it.
    public struct ControlField: Sendable, Equatable {
        public let picture: GeneratedPicture
        public var scale: Double
    }

    /// What a bundle can do; fields for anything else are of no use.
    public struct Offer: Sendable, Equatable {
        public var samplers: [String] = []
        public var task = PipelineRecord.Task.textToImage
        /// Whether it reads pictures: to start from, to repaint or to edit.
        public var takesPicture = false
        public var takesMask = false
        public var controlNets: [String] = []
        public var hasSafetyChecker = false
        /// Of the pictures that it draws, in pixels.
        public var width = 0
        public var height = 0

        public init() {}

        public init(_ manifest: BundleManifest) {
            samplers = SamplerRecord.names.filter { (try? manifest.sampler.named($0)) != nil }
            if !samplers.contains(manifest.sampler.name) { samplers.insert(manifest.sampler.name, at: 0) }
            task = manifest.pipeline.task
            takesPicture = manifest.components[.encoder] != nil
            takesMask = takesPicture && task != .instructedEditing
            controlNets = manifest.pipeline.control.components.map { String($0.rawValue.dropFirst("control_".count)) }
            hasSafetyChecker = manifest.safety != nil
            width = manifest.latents.pixelsPerLatent * manifest.latents.width
            height = manifest.latents.pixelsPerLatent * manifest.latents.height
        }
    }

    public init() {}

    /// Takes a bundle's own settings, and keeps what was written. Pictures of another size, and for what it can't do, go.
    public mutating func adopt(_ manifest: BundleManifest) {
        let before = offer
        offer = Offer(manifest)
        steps = manifest.pipeline.defaultSteps
        guidance = manifest.guidance.defaultScale
        sampler = manifest.sampler.name
        if !offer.takesPicture || (before.width, before.height) != (offer.width, offer.height) { removePicture() }
        controls = controls.filter { name, field in
            offer.controlNets.contains(name) && (field.picture.width, field.picture.height) == (offer.width, offer.height)
        }
    }

    /// How much of the picture is drawn anew, above 0 to 1: one value with a mask, another without.
    public var strength: Double {
        get { mask.isEmpty ? strengthOfPicture : strengthOfMask }
        set { if mask.isEmpty { strengthOfPicture = newValue } else { strengthOfMask = newValue } }
    }

    /// Starts from a picture of any size. Returns in words what was done to it, if anything was.
    @discardableResult
    public mutating func use(_ picture: GeneratedPicture) throws -> String? {
        guard offer.takesPicture else {
            throw UsageError("this bundle reads no pictures; export it with --with encoder.")
        }
        let (sized, note) = try PictureFit.fill.bring(picture, width: offer.width, height: offer.height)
        self.picture = sized
        mask.clear()
        return note
    }

    public mutating func removePicture() {
        picture = nil
        mask.clear()
    }

    /// Controls by a picture of any size. Returns in words what was done to it, if anything was.
    @discardableResult
    public mutating func control(_ name: String, by picture: GeneratedPicture) throws -> String? {
        guard offer.controlNets.contains(name) else { throw UsageError("this bundle has no ControlNet '\(name)'.") }
        let (sized, note) = try PictureFit.fill.bring(picture, width: offer.width, height: offer.height)
        controls[name] = ControlField(picture: sized, scale: controls[name]?.scale ?? 1)
        return note
    }

    public mutating func scaleControl(_ name: String, to scale: Double) { controls[name]?.scale = scale }

    public mutating func removeControl(_ name: String) { controls[name] = nil }

    /// What is missing before it can be drawn, in a sentence; nil if nothing is.
    public var missing: String? {
        if prompt.allSatisfy(\.isWhitespace) { return "Say what to draw." }
        switch offer.task {
        case .inpainting where picture == nil: return "This model repaints a part of a picture: choose one."
        case .inpainting where !covers: return "Paint over what is to be drawn anew."
        case .instructedEditing where picture == nil: return "This model edits a picture: choose one."
        default: return nil
        }
    }

    /// Whether the mask covers a pixel.
    private var covers: Bool { !mask.isEmpty && mask.raster(width: offer.width, height: offer.height).contains(true) }

    /// What to draw. Throws `UsageError` for what is missing, or can't be.
    public func request() throws -> TextToImage.Request {
        if let missing { throw UsageError(missing) }
        var request = TextToImage.Request(
            prompt: prompt, negativePrompt: negativePrompt, seed: UInt64(clamping: seed), steps: steps,
            guidanceScale: guidance, sampler: sampler.isEmpty ? nil : sampler, syntax: readsWeights ? .a1111 : .plain,
            given: try given(), previews: showsSteps ? .linear : .none)
        request.isChecked = isChecked
        request.controls = try controls.sorted { $0.key < $1.key }.map {
            try Control(name: $0.key, of: $0.value.picture, scale: $0.value.scale)
        }
        return request
    }

    private func given() throws -> GivenPicture? {
        guard let picture else { return nil }
        if offer.task == .instructedEditing { return try GivenPicture(picture, pictureGuidance: pictureGuidance) }
        let covered = covers ? mask.raster(width: picture.width, height: picture.height) : nil
        return try GivenPicture(picture, mask: covered, strength: strength)
    }
}
