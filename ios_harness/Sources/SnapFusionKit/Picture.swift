import Foundation

/// Pixels, RGB of 8 bits, row by row, and the settings that made them.
public struct Picture: Sendable, Equatable {
    public let width: Int
    public let height: Int
    /// 3 · width · height values.
    public let pixels: [UInt8]
    public let settings: [JSONValue.Member]

    public init(width: Int, height: Int, pixels: [UInt8], settings: [JSONValue.Member] = []) throws {
        guard width > 0, height > 0, pixels.count == 3 * width * height else {
            throw UsageError("\(pixels.count) values don't make a picture of \(width) × \(height).")
        }
        self.width = width
        self.height = height
        self.pixels = pixels
        self.settings = settings
    }

    /// From an image (1, 3, H, W), -1 black to 1 white: clamped, and rounded to the nearest, ties to even.
    public init(image: Tensor, settings: [JSONValue.Member] = []) throws {
        guard image.shape.count == 4, image.shape[0] == 1, image.shape[1] == 3 else {
            throw UsageError("a picture is made of (1, 3, H, W), not of \(Tensor.describe(image.shape)).")
        }
        let (height, width) = (image.shape[2], image.shape[3])
        let values = image.floats
        let plane = width * height
        let pixels = [UInt8](unsafeUninitializedCapacity: 3 * plane) { buffer, count in
            for index in 0..<plane {
                for channel in 0..<3 {
                    let unit = min(max(values[channel * plane + index] / 2 + 0.5, 0), 1)
                    buffer[3 * index + channel] = UInt8((unit * 255).rounded(.toNearestOrEven))
                }
            }
            count = 3 * plane
        }
        try self.init(width: width, height: height, pixels: pixels, settings: settings)
    }

    /// The PNG file, with the settings as JSON in its text metadata under the keyword Python reads.
    public func png() -> Data {
        var text: [(keyword: String, text: String)] = [("Software", "sfmobile")]
        if !settings.isEmpty {
            let compact = JSONValue.object(settings).serialized().split(separator: "\n").map {
                $0.drop { $0 == " " }
            }
            text.append(("sfmobile", compact.joined(separator: " ")))
        }
        return PNG.file(width: width, height: height, rgb: pixels, text: text)
    }
}
