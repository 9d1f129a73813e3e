import Foundation

/// Pixels, RGB of 8 bits, row by row, and the settings that made them.
public struct GeneratedPicture: Sendable, Equatable {
    public let width: Int
    public let height: Int
    /// 3 · width · height values.
    public let pixels: [UInt8]
    public let settings: [OrderedJSON.Member]

    public init(width: Int, height: Int, pixels: [UInt8], settings: [OrderedJSON.Member] = []) throws {
        guard width > 0, height > 0, pixels.count == 3 * width * height else {
            throw UsageError("\(pixels.count) values don't make a picture of \(width) × \(height).")
        }
        self.width = width
        self.height = height
        self.pixels = pixels
        self.settings = settings
    }

    /// From an image (1, 3, H, W), -1 black to 1 white: clamped, and rounded to the nearest, ties to even.
    public init(image: HostTensor, settings: [OrderedJSON.Member] = []) throws {
        guard image.shape.count == 4, image.shape[0] == 1, image.shape[1] == 3 else {
            throw UsageError("a picture is made of (1, 3, H, W), not of \(HostTensor.describe(image.shape)).")
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

    /// All pictures of one size in rows of four, on white, with the settings of the first.
    public init(sideBySide pictures: [GeneratedPicture]) throws {
        guard let first = pictures.first,
            pictures.allSatisfy({ $0.width == first.width && $0.height == first.height })
        else { throw UsageError("a sheet takes one picture or more, all of one size.") }
        let columns = min(pictures.count, 4)
        let width = columns * first.width
        let height = (pictures.count + columns - 1) / columns * first.height
        var pixels = [UInt8](repeating: 255, count: 3 * width * height)
        for (index, picture) in pictures.enumerated() {
            for row in 0..<first.height {
                let line = 3 * ((index / columns * first.height + row) * width + index % columns * first.width)
                let source = 3 * row * first.width
                pixels.replaceSubrange(
                    line..<line + 3 * first.width, with: picture.pixels[source..<source + 3 * first.width])
            }
        }
        try self.init(width: width, height: height, pixels: pixels, settings: first.settings)
    }

    /// The same pixels with one more setting.
    func adding(_ name: String, _ value: String) -> GeneratedPicture {
        GeneratedPicture(self, settings + [.init(name, .string(value))])
    }

    /// A black picture of the same size and settings.
    func blackened() throws -> GeneratedPicture {
        try GeneratedPicture(
            width: width, height: height, pixels: [UInt8](repeating: 0, count: pixels.count), settings: settings)
    }

    private init(_ picture: GeneratedPicture, _ settings: [OrderedJSON.Member]) {
        width = picture.width
        height = picture.height
        pixels = picture.pixels
        self.settings = settings
    }

    /// How light each pixel is, 0 to 255 (ITU-R BT.601, rounded as Pillow does it).
    public var luma: [UInt8] {
        var light: [UInt8] = []
        light.reserveCapacity(width * height)
        for index in stride(from: 0, to: pixels.count, by: 3) {
            var sum = 19595 * Int(pixels[index])
            sum += 38470 * Int(pixels[index + 1])
            sum += 7471 * Int(pixels[index + 2])
            light.append(UInt8((sum + 0x8000) >> 16))
        }
        return light
    }

    /// The PNG file, with the settings as JSON in its text metadata under the keyword Python reads.
    public func png() -> Data {
        var text: [(keyword: String, text: String)] = [("Software", "sfmobile")]
        if !settings.isEmpty {
            let compact = OrderedJSON.object(settings).serialized().split(separator: "\n").map {
                $0.drop { $0 == " " }
            }
            text.append(("sfmobile", compact.joined(separator: " ")))
        }
        return PNG.file(width: width, height: height, rgb: pixels, text: text)
    }
}
