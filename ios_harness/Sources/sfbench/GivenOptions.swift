import ArgumentParser
import Foundation
import SnapFusionKit

/// The options of a picture that is given, as `sfmobile generate` has them. It is a PNG; one of another size is brought to
/// the bundle's.
struct GivenOptions: ParsableArguments {
    @Option(help: ArgumentHelp("A picture to start from, repaint or edit.", valueName: "file.png"))
    var image: String?

    @Option(
        help: ArgumentHelp(
            "How it is brought to the bundle's size: fill covers it and cuts off the rest, fit lies within it on white, "
                + "stretch changes its proportions.", valueName: "fill|fit|stretch"))
    var fit = PictureFit.fill

    @Option(help: "How much of it is drawn anew, above 0 to 1; 0.8 without it, 1 with a mask.")
    var strength: Double?

    @Option(help: ArgumentHelp("White where the picture is drawn anew.", valueName: "file.png"))
    var mask: String?

    @Option(help: "How close a model that edits keeps to the picture; 1.5 without it.")
    var imageGuidance: Double?

    @Flag(inversion: .prefixedNo, help: "Put back what the mask doesn't cover as it was, with a soft edge.")
    var paste = true

    /// Of the bundle's size; nil without `--image`. Throws `UsageError` and `FileFormatError`.
    func picture(for latents: LatentsRecord) throws -> GivenPicture? {
        guard let image else {
            guard mask == nil, strength == nil, imageGuidance == nil else {
                throw UsageError("a mask, a strength and image guidance are of a picture; give one (--image).")
            }
            return nil
        }
        let picture = try readPicture(image)
        let (width, height) = (latents.pixelsPerLatent * latents.width, latents.pixelsPerLatent * latents.height)
        var covered: [Bool]?
        if let mask {
            let cover = try readPicture(mask)
            guard cover.width == picture.width, cover.height == picture.height else {
                throw UsageError(
                    "'\(mask)' is \(cover.width)x\(cover.height) pixels and the picture "
                        + "\(picture.width)x\(picture.height); give a mask of the picture's size.")
            }
            // Grey before it is scaled; outside the picture a mask covers nothing.
            let grey = try GeneratedPicture(
                width: cover.width, height: cover.height, pixels: cover.luma.flatMap { [$0, $0, $0] })
            covered = try fit.bring(grey, width: width, height: height, ground: 0).picture.luma.map { $0 >= 128 }
        }
        let (sized, done) = try fit.bring(picture, width: width, height: height)
        if let done { note(done) }
        return try GivenPicture(
            sized, mask: covered, strength: strength, pictureGuidance: imageGuidance, pastes: paste)
    }
}

/// The picture of a PNG file. Throws `FileFormatError`.
func readPicture(_ path: String) throws -> GeneratedPicture {
    let data: Data
    do {
        data = try Data(contentsOf: URL(fileURLWithPath: path))
    } catch {
        throw FileFormatError(file: path, problem: "it can't be read; name a picture that is there")
    }
    return try PNGReader.picture(data, file: path)
}

extension PictureFit: @retroactive ExpressibleByArgument {}
