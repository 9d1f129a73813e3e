/// What a bundle says of itself: `manifest.json`. Constants live here and nowhere else.
public struct BundleManifest: Sendable, Equatable {
    /// The version this reader understands; older ones are read too.
    public static let schemaVersion = 2

    public let name: String
    public let source: SourceRecord
    public let target: Target
    public let options: OrderedJSON
    public let tools: [String: String]
    public let pipeline: PipelineRecord
    public internal(set) var components: [ComponentName: ComponentRecord]
    public let sampler: SamplerRecord
    public internal(set) var latents: LatentsRecord
    public internal(set) var guidance: GuidanceRecord
    public let timeEmbedding: TimeEmbeddingRecord
    public let tokenizers: [String: TokenizerRecord]
    /// The tokenizer of the first text condition.
    public let tokenizer: TokenizerRecord
    public let golden: GoldenRecord?
    /// What pictures are compared with before they are shown, where the bundle holds a safety checker.
    public let safety: SafetyRecord?

    public enum Target: String, Sendable, CaseIterable {
        case ios16, ios17, ios18
    }

    /// The components that the bundle holds, in the order they run.
    public var componentNames: [ComponentName] { pipeline.components.filter { components[$0] != nil } }

    /// Whether the bundle holds every component that its task takes.
    public var isWhole: Bool { componentNames.count == pipeline.components.count }

    /// Whether the bundle draws pictures: it is whole, and its task is one that this harness runs.
    public var canDraw: Bool { isWhole && pipeline.task == .textToImage }

    /// Every file that the manifest names, with its record.
    public var files: [String: FileRecord] {
        var files: [String: FileRecord] = [:]
        for tokenizer in tokenizers.values { files.merge(tokenizer.files) { first, _ in first } }
        for component in components.values { files.merge(component.files) { first, _ in first } }
        if let golden { files.merge(golden.files) { first, _ in first } }
        if let safety { files.merge(safety.files) { first, _ in first } }
        return files
    }
}

/// What a component is called; which ones there are, a pipeline says.
public struct ComponentName: RawRepresentable, Sendable, Hashable, Codable, CustomStringConvertible {
    public static let textEncoder = ComponentName(known: "text_encoder")
    public static let unet = ComponentName(known: "unet")
    public static let decoder = ComponentName(known: "decoder")
    /// What makes latents of a picture, where a bundle has it.
    public static let encoder = ComponentName(known: "encoder")
    /// What looks at each picture before it is shown, where a bundle has it.
    public static let safetyChecker = ComponentName(known: "safety_checker")

    public let rawValue: String
    public var description: String { rawValue }

    /// Nil unless it is lowercase letters, digits and underscores, a letter first, 64 at most: it also names files.
    public init?(rawValue: String) {
        let letters = UInt8(ascii: "a")...UInt8(ascii: "z")
        let others = UInt8(ascii: "0")...UInt8(ascii: "9")
        guard let first = rawValue.utf8.first, letters.contains(first), rawValue.utf8.count <= 64,
            rawValue.utf8.allSatisfy({ letters.contains($0) || others.contains($0) || $0 == UInt8(ascii: "_") })
        else { return nil }
        self.rawValue = rawValue
    }

    private init(known: String) { rawValue = known }
}

extension ComponentName: Comparable {
    /// As reports list them: what reads the prompt, what walks the noise down, what makes pixels; then the alphabet.
    public static func < (one: ComponentName, other: ComponentName) -> Bool {
        (one.place, one.rawValue) < (other.place, other.rawValue)
    }

    private var place: Int {
        if rawValue.hasPrefix("text_encoder") { return 0 }
        return self == .unet ? 1 : self == .decoder ? 2 : 3
    }
}

/// What the components together are: family and task, what runs, and what a call of the UNet takes beside latents and
/// time.
public struct PipelineRecord: Sendable, Equatable {
    public enum Family: String, Sendable, CaseIterable {
        case stableDiffusion = "stable-diffusion"
        case latentConsistency = "latent-consistency"
    }
    public enum Task: String, Sendable, CaseIterable {
        case textToImage = "text-to-image"
        case inpainting
        case instructedEditing = "instructed-editing"
        case depthToImage = "depth-to-image"
    }

    public let family: Family
    public let task: Task
    /// All that the task takes and the optional ones that were asked for, in the order they run; a bundle may hold fewer.
    public let components: [ComponentName]
    public let conditions: [ConditionRecord]
    public let defaultSteps: Int

    /// Chunks of a prompt that the UNet reads side by side.
    public var promptChunks: Int {
        for case .text(_, _, _, _, let chunks) in conditions { return chunks }
        return 1
    }

    /// The ControlNets of the bundle, and the inputs that the UNet takes of them; none if it takes none.
    public var control: (components: [ComponentName], inputs: [String]) {
        for case .residuals(let input, let count, let components) in conditions {
            return (components, (0..<count).map { "\(input)_\($0)" })
        }
        return ([], [])
    }

    /// Whether the UNet takes the guidance scale as an input: it is called once a step, with the prompt alone.
    public var takesGuidance: Bool {
        for case .guidanceEmbedding in conditions { return true }
        return false
    }
}

/// What a call of the UNet takes beside latents and time, under the name of its input.
public enum ConditionRecord: Sendable, Equatable {
    /// The prompt's hidden states: tokens of a tokenizer through a text encoder.
    /// `chunks`: how many runs of the encoder's tokens stand side by side in the input.
    case text(input: String, component: ComponentName, tokenizer: String, skippedLayers: Int, chunks: Int)
    /// The guidance scale as an input of a UNet that was distilled with it (arXiv 2310.04378, section 4.3): the host
    /// computes a sinusoid of `dimension` values, sines first, of 1000 times (scale - 1).
    case guidanceEmbedding(input: String, dimension: Int)
    /// Further channels of an input, behind the noisy latents: a mask and the masked picture's latents, a picture's, a
    /// depth map.
    case concatenated(input: String, content: Content, channels: Int)
    /// What ControlNets add to the UNet's skip connections and, last, to its middle: inputs `input`_0 to
    /// `input`_(`count` - 1), each the sum of what the `components` give, times their scales; zeros without a picture.
    case residuals(input: String, count: Int, components: [ComponentName])

    public enum Content: String, Sendable, CaseIterable {
        case maskAndMaskedPicture = "mask_and_masked_picture"
        case picture, depth
    }

    public var input: String {
        switch self {
        case .text(let input, _, _, _, _), .guidanceEmbedding(let input, _), .concatenated(let input, _, _),
            .residuals(let input, _, _):
            input
        }
    }
}

/// Size and checksum of one file.
public struct FileRecord: Sendable, Equatable {
    public let bytes: Int
    public let sha256: String
}

/// One input or output of a component.
public struct TensorRecord: Sendable, Equatable {
    public enum DataType: String, Sendable, CaseIterable {
        case float16, float32, int32
    }

    public let name: String
    public let shape: [Int]
    public let dtype: DataType
    public let description: String

    public init(name: String, shape: [Int], dtype: DataType, description: String = "") {
        self.name = name
        self.shape = shape
        self.dtype = dtype
        self.description = description
    }
}

/// How the weights are stored. `bits` is the most frequent choice.
public struct CompressionRecord: Sendable, Equatable {
    public let bits: Int
    public let groupSize: Int?
    /// Layers that have one lookup table, since the group doesn't divide their channels.
    public let ungroupedLayers: Int
    public let recipeSHA256: String?
}

/// One of the packages that a component is cut into, run one after the other.
///
/// Inputs are the component's or outputs of earlier chunks, by name; outputs are what later chunks or the caller take.
public struct ChunkRecord: Sendable, Equatable {
    public let package: String
    public let inputs: [TensorRecord]
    public let outputs: [TensorRecord]
    public let bytes: Int

    public init(package: String, inputs: [TensorRecord], outputs: [TensorRecord], bytes: Int) {
        self.package = package
        self.inputs = inputs
        self.outputs = outputs
        self.bytes = bytes
    }
}

/// Another function of a component's package: the same weights for other shapes.
public struct FunctionRecord: Sendable, Equatable {
    public let function: String
    public let inputs: [TensorRecord]
    public let outputs: [TensorRecord]
}

/// One exported component. `package` of one in chunks is the folder that holds theirs; `function`, `inputs` and `outputs`
/// are those of the function to run, `functions` the others of the same package.
public struct ComponentRecord: Sendable, Equatable {
    public enum Format: String, Sendable, CaseIterable {
        case mlprogram, onnx, coreai
    }
    public enum Precision: String, Sendable, CaseIterable {
        case float16, float32
    }
    public enum Attention: String, Sendable, CaseIterable {
        case original
        case splitEinsum = "split-einsum"
        case splitEinsumV2 = "split-einsum-v2"
    }

    /// When a component is called.
    public enum Runs: String, Sendable, CaseIterable {
        case perPrompt = "per_prompt"
        case perStep = "per_step"
        case perPicture = "per_picture"
        /// Once for each picture that is given: never when a prompt is all there is.
        case perGivenPicture = "per_given_picture"
        /// For each step whose prediction is to be seen.
        case perPreview = "per_preview"
    }

    public let runs: Runs
    public let format: Format
    public let package: String
    public internal(set) var function: String
    /// The function that Core ML runs if none is named.
    public let defaultFunction: String
    public internal(set) var inputs: [TensorRecord]
    public internal(set) var outputs: [TensorRecord]
    public let computePrecision: Precision
    public let attention: Attention
    public let compression: CompressionRecord?
    public let parameters: Int
    public let bytes: Int
    public let sourceSHA256: String
    public let optionsSHA256: String
    public let files: [String: FileRecord]
    public let chunks: [ChunkRecord]
    public internal(set) var functions: [FunctionRecord]

    /// The packages that make up the component, in running order: its chunks, or its own.
    public var parts: [ChunkRecord] {
        chunks.isEmpty ? [ChunkRecord(package: package, inputs: inputs, outputs: outputs, bytes: bytes)] : chunks
    }

    /// The recorded files of one of `parts`.
    public func files(of part: ChunkRecord) -> [String: FileRecord] {
        chunks.isEmpty ? files : files.filter { $0.key.hasPrefix(part.package + "/") }
    }
}

/// Shape of the latents and their relation to pixels and to the decoder's input.
public struct LatentsRecord: Sendable, Equatable {
    public let channels: Int
    public let height: Int
    public let width: Int
    public let pixelsPerLatent: Int
    public let scalingFactor: Double

    /// (1, channels, height, width)
    public var shape: [Int] { [1, channels, height, width] }
}

/// Classifier-free guidance: the batch of the UNet (2: unconditional and conditional in one call) and the default scale.
public struct GuidanceRecord: Sendable, Equatable {
    public let batch: Int
    public let defaultScale: Double
}

/// The sinusoid the host computes: `dimension` values, cosines first if `flipSinToCos`.
public struct TimeEmbeddingRecord: Sendable, Equatable {
    public let dimension: Int
    public let flipSinToCos: Bool
    public let frequencyShift: Double
    public let maxPeriod: Double

    public init(dimension: Int, flipSinToCos: Bool = true, frequencyShift: Double = 0, maxPeriod: Double = 10000) {
        self.dimension = dimension
        self.flipSinToCos = flipSinToCos
        self.frequencyShift = frequencyShift
        self.maxPeriod = maxPeriod
    }
}

/// CLIP's byte-pair tokenizer: its files and the ids both sides must agree on. `addedTokens` are ids of tokens that stand
/// beside the vocabulary and are never split, such as learned embeddings.
public struct TokenizerRecord: Sendable, Equatable {
    public let vocab: String
    public let merges: String
    public let maxLength: Int
    public let bosTokenID: Int
    public let eosTokenID: Int
    public let padTokenID: Int
    /// Ids of tokens that are found in a prompt in any case of their letters, and as they are written.
    public let addedTokens: [String: Int]
    public let exactTokens: [String: Int]
    public let files: [String: FileRecord]
}

/// Reference vectors: .npy files, with the run that made them.
public struct GoldenRecord: Sendable, Equatable {
    public let prompt: String
    public let negativePrompt: String
    public let seed: Int
    public let steps: Int
    public let guidanceScale: Double
    public let files: [String: FileRecord]
}

/// The concepts that a picture is compared with, `.npy` files of a row each, the cosines above which it is too close to
/// one, and how a picture is brought to the component.
public struct SafetyRecord: Sendable, Equatable {
    /// The shorter side is scaled to `shortestEdge`, bicubic; the square of `cropSize` from the middle is normalised by
    /// `mean` and `std` of the colours, 0 to 1.
    public struct Picture: Sendable, Equatable {
        public let shortestEdge: Int
        public let cropSize: Int
        public let mean: [Double]
        public let std: [Double]

        public init(shortestEdge: Int, cropSize: Int, mean: [Double], std: [Double]) {
            self.shortestEdge = shortestEdge
            self.cropSize = cropSize
            self.mean = mean
            self.std = std
        }
    }

    public let concepts: String
    public let specialCare: String
    public let conceptThresholds: [Double]
    public let specialCareThresholds: [Double]
    public let picture: Picture
    public let files: [String: FileRecord]

    public init(
        concepts: String, specialCare: String, conceptThresholds: [Double], specialCareThresholds: [Double],
        picture: Picture, files: [String: FileRecord] = [:]
    ) {
        self.concepts = concepts
        self.specialCare = specialCare
        self.conceptThresholds = conceptThresholds
        self.specialCareThresholds = specialCareThresholds
        self.picture = picture
        self.files = files
    }
}

/// Where the weights came from.
public struct SourceRecord: Sendable, Equatable {
    public let id: String
    public let sha256: String
    public let licence: String
    /// The commit of a model on the Hub; the tokenizer and the prediction that a single file needed.
    public let revision: String?
    public let tokenizer: String?
    public let prediction: String?
    /// Whether a single file's averaged weights were taken.
    public let ema: Bool
    /// What was laid over the weights when they were exported.
    public let overlays: [OverlayRecord]
}

/// A file that was laid over a checkpoint: a LoRA at a scale, the vectors of tokens, another autoencoder, a tiny one for
/// previews.
public struct OverlayRecord: Sendable, Equatable {
    public enum Kind: String, Sendable, CaseIterable {
        case lora, embedding, vae, preview, controlnet
    }

    public let kind: Kind
    public let path: String
    public let sha256: String
    public let scale: Double?
    public let tokens: [String]
    /// What the bundle calls a ControlNet.
    public let component: String?
}
