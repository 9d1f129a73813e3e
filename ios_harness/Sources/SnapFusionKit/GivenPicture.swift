/// A picture to start from, to repaint or to edit, of the size that the bundle draws in.
public struct GivenPicture: Sendable, Equatable {
    /// The soft edge of what is pasted back, as a share of the shorter side.
    private static let edge = 1.0 / 64

    public let picture: GeneratedPicture
    /// Row by row, true where the picture is drawn anew.
    public let mask: [Bool]?
    /// Above 0 to 1, how much of it is noise at the start. Nil: 0.8, and 1 with a mask.
    public let strength: Double?
    /// Of a model that edits, how close to keep to the picture. Nil: 1.5.
    public let pictureGuidance: Double?
    /// Whether what the mask doesn't cover is put back as it was.
    public let pastes: Bool

    /// Throws `UsageError` for a mask that isn't of the picture's size or covers nothing.
    public init(
        _ picture: GeneratedPicture, mask: [Bool]? = nil, strength: Double? = nil, pictureGuidance: Double? = nil,
        pastes: Bool = true
    ) throws {
        if let mask {
            guard mask.count == picture.width * picture.height else {
                throw UsageError("the mask isn't of the picture's size, \(picture.width)x\(picture.height).")
            }
            guard mask.contains(true) else {
                throw UsageError("the mask covers nothing; paint white what is to be drawn anew.")
            }
        }
        self.picture = picture
        self.mask = mask
        self.strength = strength
        self.pictureGuidance = pictureGuidance
        self.pastes = pastes
    }

    /// The picture as an image (1, 3, H, W), -1 black to 1 white; what `mask` covers is 0 if `masked`.
    func image(masked: Bool) throws -> HostTensor {
        let plane = picture.width * picture.height
        var values = [Float](repeating: 0, count: 3 * plane)
        for index in 0..<plane where !(masked && mask?[index] == true) {
            for channel in 0..<3 {
                values[channel * plane + index] = 2 * (Float(picture.pixels[3 * index + channel]) / 255) - 1
            }
        }
        return try HostTensor(shape: [1, 3, picture.height, picture.width], values)
    }

    /// The mask of the latents: what it says of the upper left pixel of each.
    func latentMask(pixelsPerLatent: Int) -> [Float] {
        guard let mask else { return [] }
        var coarse: [Float] = []
        for row in stride(from: 0, to: picture.height, by: pixelsPerLatent) {
            for column in stride(from: 0, to: picture.width, by: pixelsPerLatent) {
                coarse.append(mask[row * picture.width + column] ? 1 : 0)
            }
        }
        return coarse
    }

    /// The drawn picture where the mask covers, the given one's own pixels everywhere else.
    ///
    /// The edge is soft, and within the mask: not one pixel outside changes.
    func pasted(_ drawn: GeneratedPicture) throws -> GeneratedPicture {
        guard let mask, pastes else { return drawn }
        let (width, height) = (picture.width, picture.height)
        let radius = max(1, Int((Double(min(width, height)) * GivenPicture.edge).rounded(.toNearestOrEven)))
        let inside = mask.map { $0 ? Float(1) : 0 }
        let means = GivenPicture.blurred(inside, width: width, height: height, radius: radius)
        var pixels = drawn.pixels
        for index in inside.indices {
            // A blurred straight edge is one half at the edge itself.
            let share = min(max(2 * means[index] - 1, 0), 1) * inside[index]
            for channel in 3 * index..<3 * index + 3 {
                let mixed = share * Float(drawn.pixels[channel]) + (1 - share) * Float(picture.pixels[channel])
                pixels[channel] = UInt8(mixed.rounded(.toNearestOrEven))
            }
        }
        return try GeneratedPicture(width: width, height: height, pixels: pixels, settings: drawn.settings)
    }

    /// Means over squares of 2 `radius` + 1, the border repeated outside.
    static func blurred(_ values: [Float], width: Int, height: Int, radius: Int) -> [Float] {
        func along(_ line: [Float]) -> [Float] {
            var sums = [0.0]
            for place in -radius - 1..<line.count + radius {
                sums.append(sums[sums.count - 1] + Double(line[min(max(place, 0), line.count - 1)]))
            }
            let window = 2 * radius + 1
            return line.indices.map { Float((sums[$0 + window + 1] - sums[$0 + 1]) / Double(window)) }
        }
        var result = values
        for column in 0..<width {
            let line = along((0..<height).map { result[$0 * width + column] })
            for row in 0..<height { result[row * width + column] = line[row] }
        }
        for row in 0..<height {
            let span = row * width..<(row + 1) * width
            result.replaceSubrange(span, with: along(Array(result[span])))
        }
        return result
    }

    /// What a drawing's metadata says of it.
    var settings: [OrderedJSON.Member] {
        var said: [OrderedJSON.Member] = [.init("image_sha256", .string(SHA256Digest.hexadecimal(of: picture.pixels)))]
        if let mask {
            said.append(.init("mask_sha256", .string(SHA256Digest.hexadecimal(of: mask.map { $0 ? 1 : 0 }))))
            said.append(.init("paste", .integer(pastes ? 1 : 0)))
        }
        return said
    }
}
