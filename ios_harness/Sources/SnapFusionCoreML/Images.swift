#if canImport(CoreML)
    import CoreGraphics
    import SnapFusionKit

    #if canImport(UIKit)
        import UIKit
    #endif

    extension GeneratedPicture {
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
