import SnapFusionKit
import XCTest

/// Pictures in other sizes, beside Pillow's pixels.
final class PictureScalingTests: XCTestCase {
    private func picture(_ name: String) throws -> GeneratedPicture {
        let array = try GoldenFiles.array("safety/\(name).npy")
        guard case .uint8(let pixels) = array.elements else { throw UsageError("no pixels") }
        return try GeneratedPicture(width: array.shape[1], height: array.shape[0], pixels: pixels)
    }

    func testEveryPixelIsPillows() throws {
        for (name, kernel) in [("bicubic", PictureScaling.Kernel.bicubic), ("lanczos", .lanczos)] {
            for index in 0..<4 {
                let found = try PictureScaling(kernel)(picture("\(index).picture"), width: 23, height: 31)
                XCTAssertEqual(found, try picture("\(index).\(name)"), "\(name) \(index)")
            }
        }
    }

    func testAPictureOfTheSizeStaysAsItIs() throws {
        let picture = try picture("1.picture")
        XCTAssertEqual(try PictureScaling(.lanczos)(picture, width: 11, height: 7), picture)
        for fit in PictureFit.allCases {
            let found = try fit.bring(picture, width: 11, height: 7)
            XCTAssertEqual(found.picture, picture)
            XCTAssertNil(found.note)
        }
        XCTAssertThrowsError(try PictureScaling(.bicubic)(picture, width: 0, height: 7))
    }

    func testAPictureIsCutLaidOnWhiteOrStretched() throws {
        let wide = try GeneratedPicture(width: 4, height: 2, pixels: [UInt8](repeating: 100, count: 24))
        let filled = try PictureFit.fill.bring(wide, width: 4, height: 4)
        XCTAssertEqual(filled.picture.pixels, [UInt8](repeating: 100, count: 48))
        XCTAssertEqual(filled.note, "The picture of 4x2 was scaled to 8x4 and cut to 4x4.")
        let laid = try PictureFit.fit.bring(wide, width: 4, height: 4)
        let (white, grey) = ([UInt8](repeating: 255, count: 12), [UInt8](repeating: 100, count: 24))
        XCTAssertEqual(laid.picture.pixels, white + grey + white)
        XCTAssertEqual(laid.note, "The picture of 4x2 was scaled to 4x2 and laid on white of 4x4.")
        XCTAssertEqual(try PictureFit.fit.bring(wide, width: 4, height: 4, ground: 0).picture.pixels[0], 0)
        let stretched = try PictureFit.stretch.bring(wide, width: 4, height: 4)
        XCTAssertEqual(stretched.picture.pixels, [UInt8](repeating: 100, count: 48))
        XCTAssertEqual(stretched.note, "The picture of 4x2 was stretched to 4x4.")
        XCTAssertEqual(try PictureFit.fill.bring(wide, width: 8, height: 4).note, "The picture of 4x2 was scaled to 8x4.")
    }
}
