#if canImport(CoreML)
    import CoreGraphics
    import ImageIO
    import SnapFusionKit

    #if canImport(UIKit)
        import UIKit
    #endif

    extension GeneratedPicture {
        /// A picture of any format that the system reads, upright, transparent parts on white, of at least `width` by
        /// `height` pixels where it has them: no photo is unpacked to its whole size.
        /// Throws `UnavailableError` if it is none.
        public init(imageData: Data, width: Int, height: Int) throws {
            // The longer side of one that fills the size from a panorama of four times its proportions.
            let longest = 4 * max(width, height, 64)
            let options: [String: Any] = [
                kCGImageSourceCreateThumbnailFromImageAlways as String: true,
                kCGImageSourceCreateThumbnailWithTransform as String: true,
                kCGImageSourceThumbnailMaxPixelSize as String: longest,
            ]
            guard let source = CGImageSourceCreateWithData(imageData as CFData, nil),
                let image = CGImageSourceCreateThumbnailAtIndex(source, 0, options as CFDictionary)
            else { throw UnavailableError("This is no picture that the system reads; choose another one.") }
            try self.init(image)
        }

        private init(_ image: CGImage) throws {
            let (width, height) = (image.width, image.height)
            guard let space = CGColorSpace(name: CGColorSpace.sRGB),
                let context = CGContext(
                    data: nil, width: width, height: height, bitsPerComponent: 8, bytesPerRow: 4 * width, space: space,
                    bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)
            else { throw UnavailableError("Core Graphics can't unpack a picture of \(width) × \(height).") }
            let all = CGRect(x: 0, y: 0, width: width, height: height)
            context.setFillColor(red: 1, green: 1, blue: 1, alpha: 1)
            context.fill(all)
            context.draw(image, in: all)
            guard let data = context.data else {
                throw UnavailableError("Core Graphics can't unpack a picture of \(width) × \(height).")
            }
            let bytes = UnsafeRawBufferPointer(start: data, count: context.bytesPerRow * height)
            var pixels: [UInt8] = []
            pixels.reserveCapacity(3 * width * height)
            for row in 0..<height {
                for column in 0..<width {
                    let place = row * context.bytesPerRow + 4 * column
                    pixels += [bytes[place], bytes[place + 1], bytes[place + 2]]
                }
            }
            try self.init(width: width, height: height, pixels: pixels)
        }

        /// The picture for drawing, in sRGB. Throws `UnavailableError` if Core Graphics can't make one.
        public func cgImage() throws -> CGImage {
            guard let provider = CGDataProvider(data: Data(pixels) as CFData),
                let space = CGColorSpace(name: CGColorSpace.sRGB),
                let image = CGImage(
                    width: width, height: height, bitsPerComponent: 8, bitsPerPixel: 24, bytesPerRow: 3 * width,
                    space: space, bitmapInfo: CGBitmapInfo(rawValue: CGImageAlphaInfo.none.rawValue),
                    provider: provider, decode: nil, shouldInterpolate: true, intent: .defaultIntent)
            else { throw UnavailableError("Core Graphics can't make a picture of \(width) × \(height).") }
            return image
        }

        #if canImport(UIKit)
            /// The picture for UIKit and SwiftUI. Throws as `cgImage` does.
            public func uiImage() throws -> UIImage { UIImage(cgImage: try cgImage()) }
        #endif
    }
#endif
