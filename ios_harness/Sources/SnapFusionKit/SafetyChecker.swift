/// Whether a picture may be shown: its embedding against the concepts of a bundle's safety checker, as in diffusers.
///
/// The component gives an embedding (CLIP's vision encoder); everything before and behind it is computed here, as in
/// `sfmobile.sampling.safety`: the picture scaled and normalised, cosines, thresholds, scores of three digits.
public struct SafetyChecker: Sendable {
    /// What is added to the scores behind a special concept that was found: whatever is near it is looked at more
    /// strictly.
    private static let adjustment: Float = 0.01
    private static let leastNorm = 1e-12

    public let record: SafetyRecord
    private let concepts: [[Float]]
    private let specialCare: [[Float]]

    /// Embeddings a row each, and the record of their thresholds.
    public init(record: SafetyRecord, concepts: [[Float]], specialCare: [[Float]]) {
        self.record = record
        self.concepts = concepts
        self.specialCare = specialCare
    }

    /// That of a bundle; nil if it has none. Throws `FileFormatError` and `BundleError` for concepts that don't fit it.
    public init?(bundle: ModelBundle) throws {
        guard let record = bundle.manifest.safety else { return nil }
        let width = try bundle.component(.safetyChecker).outputs.first?.shape.last ?? 0
        func rows(_ path: String, _ count: Int) throws -> [[Float]] {
            let file = bundle.root.appendingPathComponent(path)
            let found = try NumpyArray(contentsOf: file)
            guard found.shape == [count, width], case .float32(let values) = found.elements else {
                throw BundleError(
                    .wrongSize,
                    "'\(file.path)' holds values of shape \(HostTensor.describe(found.shape)): expected float32 "
                        + "\(HostTensor.describe([count, width])); export it again or copy the bundle anew.")
            }
            return (0..<count).map { Array(values[$0 * width..<($0 + 1) * width]) }
        }
        self.init(
            record: record, concepts: try rows(record.concepts, record.conceptThresholds.count),
            specialCare: try rows(record.specialCare, record.specialCareThresholds.count))
    }

    /// A picture as the component takes it, (1, 3, S, S).
    public func pixelValues(_ picture: GeneratedPicture) throws -> HostTensor {
        let wanted = record.picture
        let (edge, side) = (wanted.shortestEdge, wanted.cropSize)
        // The longer side in proportion, rounded down.
        let (width, height) =
            picture.width <= picture.height
            ? (edge, edge * picture.height / picture.width) : (edge * picture.width / picture.height, edge)
        let cut = try PictureScaling(.bicubic)(picture, width: width, height: height).laid(onto: side, side, 0)
        var values = [Float](repeating: 0, count: 3 * side * side)
        for index in 0..<side * side {
            for channel in 0..<3 {
                let share = Double(cut.pixels[3 * index + channel]) / 255
                values[channel * side * side + index] = Float((share - wanted.mean[channel]) / wanted.std[channel])
            }
        }
        return try HostTensor(shape: [1, 3, side, side], values)
    }

    /// The verdict on a picture's embedding, (1, D).
    public func judge(_ embedding: [Float]) -> Verdict {
        var added: Float = 0
        var special: [Double] = []
        for (row, threshold) in zip(specialCare, record.specialCareThresholds) {
            let score = SafetyChecker.score(SafetyChecker.cosine(embedding, row), threshold, added)
            special.append(score)
            if score > 0 { added = SafetyChecker.adjustment }
        }
        let scores = zip(concepts, record.conceptThresholds).map { row, threshold in
            SafetyChecker.score(SafetyChecker.cosine(embedding, row), threshold, added)
        }
        return Verdict(concepts: scores, specialCare: special)
    }

    private static func cosine(_ one: [Float], _ other: [Float]) -> Float {
        func norm(_ values: [Float]) -> Double {
            max(values.reduce(0) { $0 + Double($1) * Double($1) }.squareRoot(), leastNorm)
        }
        let product = zip(one, other).reduce(0) { $0 + Double($1.0) * Double($1.1) }
        return Float(product / (norm(one) * norm(other)))
    }

    private static func score(_ cosine: Float, _ threshold: Double, _ added: Float) -> Double {
        let above = cosine - Float(threshold) + added
        return Double((above * 1000).rounded(.toNearestOrEven) / 1000)
    }

    /// What a safety checker says of one picture: how far the cosine with each concept is above its threshold. Those of
    /// `specialCare` only make it stricter.
    public struct Verdict: Sendable, Equatable {
        public let concepts: [Double]
        public let specialCare: [Double]

        /// Whether a concept was found: the picture is shown black.
        public var isFlagged: Bool { concepts.contains { $0 > 0 } }

        /// As JSON, with the names that `sfmobile generate` gives them.
        public var json: OrderedJSON {
            .object([
                .init("flagged", .bool(isFlagged)),
                .init("concept_scores", .array(concepts.map(OrderedJSON.number))),
                .init("special_care_scores", .array(specialCare.map(OrderedJSON.number))),
            ])
        }
    }
}
