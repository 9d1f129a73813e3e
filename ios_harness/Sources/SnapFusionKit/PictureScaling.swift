import Foundation

/// Pictures brought to other sizes as Pillow does it: kernels that are widened where a picture shrinks, weights of 22
/// bits, rows first and then columns, each rounded to 8 bits for itself. The pixels are Pillow's own, to the bit.
public struct PictureScaling: Sendable {
    /// What weighs the input pixels around an output pixel, and how many of them it reaches to each side.
    public enum Kernel: Sendable {
        /// Keys' cubic of sharpness -0.5.
        case bicubic
        /// A sinc windowed by another one three times as wide.
        case lanczos

        var reach: Double { self == .bicubic ? 2 : 3 }

        func weight(_ distance: Double) -> Double {
            let x = abs(distance)
            guard x < reach else { return 0 }
            switch self {
            case .bicubic:
                let sharpness = -0.5
                if x < 1 { return ((sharpness + 2) * x - (sharpness + 3)) * x * x + 1 }
                return (((x - 5) * x + 8) * x - 4) * sharpness
            case .lanczos: return sinc(x) * sinc(x / 3)
            }
        }

        private func sinc(_ x: Double) -> Double { x == 0 ? 1 : sin(x * .pi) / (x * .pi) }
    }

    /// Bits behind the point of a weight: what is left of 32 beside a pixel's 8 and two for the sum.
    private static let precision = 22

    public let kernel: Kernel

    public init(_ kernel: Kernel) { self.kernel = kernel }

    /// The picture in another size. Throws `UsageError` for one without pixels.
    public func callAsFunction(_ picture: GeneratedPicture, width: Int, height: Int) throws -> GeneratedPicture {
        guard width > 0, height > 0 else { throw UsageError("a picture of \(width)x\(height) has no pixels.") }
        var pixels = picture.pixels
        if width != picture.width {
            pixels = along(pixels, lines: picture.height, from: picture.width, to: width)
        }
        if height != picture.height {
            let turned = PictureScaling.turn(pixels, width: width, height: picture.height)
            let scaled = along(turned, lines: width, from: picture.height, to: height)
            pixels = PictureScaling.turn(scaled, width: height, height: width)
        }
        return try GeneratedPicture(width: width, height: height, pixels: pixels, settings: picture.settings)
    }

    /// The first input pixel of an output pixel, and the weights of it and those behind it.
    private func weights(from count: Int, to size: Int) -> [(first: Int, values: [Int])] {
        let scale = Double(count) / Double(size)
        let stretch = max(scale, 1)
        let (support, narrowing) = (kernel.reach * stretch, 1 / stretch)
        return (0..<size).map { index in
            let centre = (Double(index) + 0.5) * scale
            let first = max(0, Int(centre - support + 0.5))
            let end = min(count, Int(centre + support + 0.5))
            let shares = (first..<end).map { kernel.weight((Double($0) - centre + 0.5) * narrowing) }
            let total = shares.reduce(0, +)
            let factor = total == 0 ? 1 : 1 / total
            let values = shares.map { share in
                let value = share * factor * Double(1 << PictureScaling.precision)
                return Int(value < 0 ? value - 0.5 : value + 0.5)
            }
            return (first, values)
        }
    }

    /// Every line of `count` pixels as one of `size`.
    private func along(_ pixels: [UInt8], lines: Int, from count: Int, to size: Int) -> [UInt8] {
        let weights = weights(from: count, to: size)
        let half = 1 << (PictureScaling.precision - 1)
        var result: [UInt8] = []
        result.reserveCapacity(3 * lines * size)
        pixels.withUnsafeBufferPointer { pixels in
            for line in 0..<lines {
                for (first, values) in weights {
                    var sums = (half, half, half)
                    var place = 3 * (line * count + first)
                    for weight in values {
                        sums.0 += Int(pixels[place]) * weight
                        sums.1 += Int(pixels[place + 1]) * weight
                        sums.2 += Int(pixels[place + 2]) * weight
                        place += 3
                    }
                    for sum in [sums.0, sums.1, sums.2] {
                        result.append(UInt8(min(max(sum >> PictureScaling.precision, 0), 255)))
                    }
                }
            }
        }
        return result
    }

    /// Rows as columns.
    private static func turn(_ pixels: [UInt8], width: Int, height: Int) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: pixels.count)
        for row in 0..<height {
            for column in 0..<width {
                for channel in 0..<3 {
                    result[3 * (column * height + row) + channel] = pixels[3 * (row * width + column) + channel]
                }
            }
        }
        return result
    }
}

/// How a picture of another size is brought to a bundle's, as in `sfmobile generate --fit`.
public enum PictureFit: String, Sendable, CaseIterable {
    /// It covers the size, and what stands over is cut off.
    case fill
    /// It lies within it, on white.
    case fit
    /// Its proportions change.
    case stretch

    /// The picture in that size, and in words what was done; nothing if it had it. `ground` is what lies around one that
    /// doesn't cover it.
    public func bring(
        _ picture: GeneratedPicture, width: Int, height: Int, ground: UInt8 = 255
    ) throws -> (picture: GeneratedPicture, note: String?) {
        if picture.width == width, picture.height == height { return (picture, nil) }
        let factors = [Double(width) / Double(picture.width), Double(height) / Double(picture.height)]
        let factor = self == .fill ? max(factors[0], factors[1]) : min(factors[0], factors[1])
        var (wide, high) = (width, height)
        if self != .stretch {
            wide = max(1, Int((Double(picture.width) * factor + 0.5).rounded(.down)))
            high = max(1, Int((Double(picture.height) * factor + 0.5).rounded(.down)))
        }
        let scaled = try PictureScaling(.lanczos)(picture, width: wide, height: high)
        let laid = try scaled.laid(onto: width, height, ground)
        let size = "\(picture.width)x\(picture.height)"
        if self == .stretch { return (laid, "The picture of \(size) was stretched to \(width)x\(height).") }
        var note = "The picture of \(size) was scaled to \(wide)x\(high)"
        if (wide, high) != (width, height) {
            note += " and \(self == .fill ? "cut to" : "laid on white of") \(width)x\(height)"
        }
        return (laid, note + ".")
    }
}

extension GeneratedPicture {
    /// The middle of the picture, or all of it on a ground, in another size.
    func laid(onto width: Int, _ height: Int, _ ground: UInt8) throws -> GeneratedPicture {
        // Half of what is left over, rounded down also where it is less than nothing.
        let (left, top) = ((self.width - width) >> 1, (self.height - height) >> 1)
        var result = [UInt8](repeating: ground, count: 3 * width * height)
        for row in max(0, -top)..<min(height, self.height - top) {
            let (start, end) = (max(0, -left), min(width, self.width - left))
            guard start < end else { break }
            let source = 3 * ((row + top) * self.width + start + left)
            result.replaceSubrange(
                3 * (row * width + start)..<3 * (row * width + end), with: pixels[source..<source + 3 * (end - start)])
        }
        return try GeneratedPicture(width: width, height: height, pixels: result, settings: settings)
    }
}
