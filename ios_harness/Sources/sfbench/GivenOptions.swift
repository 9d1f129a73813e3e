import ArgumentParser
import Foundation
import SnapFusionKit

/// The options of a picture that is given, as `sfmobile generate` has them. It is a PNG of the bundle's size: nothing here
/// scales pictures.
struct GivenOptions: ParsableArguments {
    @Option(help: ArgumentHelp("A picture to start from, repaint or edit, of the bundle's size.", valueName: "file.png"))
    var image: String?

    @Option(help: "How much of it is drawn anew, above 0 to 1; 0.8 without it, 1 with a mask.")
    var strength: Double?

    @Option(help: ArgumentHelp("White where the picture is drawn anew.", valueName: "file.png"))
    var mask: String?

    @Option(help: "How close a model that edits keeps to the picture; 1.5 without it.")
    var imageGuidance: Double?

    @Flag(inversion: .prefixedNo, help: "Put back what the mask doesn't cover as it was, with a soft edge.")
    var paste = true

    /// Nil without `--image`. Throws `UsageError` and `FileFormatError`.
    func picture() throws -> GivenPicture? {
        guard let image else {
            guard mask == nil, strength == nil, imageGuidance == nil else {
                throw UsageError("a mask, a strength and image guidance are of a picture; give one (--image).")
            }
            return nil
        }
        let picture = try read(image)
        var covered: [Bool]?
        if let mask {
            let cover = try read(mask)
            guard cover.width == picture.width, cover.height == picture.height else {
                throw UsageError(
                    "'\(mask)' is \(cover.width)x\(cover.height) pixels and the picture "
                        + "\(picture.width)x\(picture.height); give a mask of the picture's size.")
            }
            covered = cover.luma.map { $0 >= 128 }
        }
        return try GivenPicture(
            picture, mask: covered, strength: strength, pictureGuidance: imageGuidance, pastes: paste)
    }

    private func read(_ path: String) throws -> GeneratedPicture {
        let data: Data
        do {
            data = try Data(contentsOf: URL(fileURLWithPath: path))
        } catch {
            throw FileFormatError(file: path, problem: "it can't be read; name a picture that is there")
        }
        return try PNGReader.picture(data, file: path)
    }
}
