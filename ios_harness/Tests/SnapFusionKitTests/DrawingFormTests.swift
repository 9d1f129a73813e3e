import Foundation
import SnapFusionKit
import XCTest

final class DrawingFormTests: XCTestCase {
    private func manifest(_ components: [ComponentName] = TestBundle.components) throws -> BundleManifest {
        try TestBundle.make(in: temporaryFolder(), components: components).manifest
    }

    private func form(_ components: [ComponentName] = TestBundle.components) throws -> DrawingForm {
        var form = DrawingForm()
        form.adopt(try manifest(components))
        return form
    }

    private func picture(_ width: Int = 8, _ height: Int = 8) throws -> GeneratedPicture {
        try GeneratedPicture(width: width, height: height, pixels: [UInt8](repeating: 90, count: 3 * width * height))
    }

    func testItTakesTheBundlesOwnSettings() throws {
        let form = try form()
        XCTAssertEqual(form.steps, 8)
        XCTAssertEqual(form.guidance, 2)
        XCTAssertEqual(form.sampler, "ddim")
        XCTAssertTrue(form.offer.samplers.contains("dpm++2m-karras"))
        XCTAssertEqual([form.offer.width, form.offer.height], [8, 8])
        XCTAssertFalse(form.offer.takesPicture || form.offer.takesMask || form.offer.hasSafetyChecker)
        XCTAssertEqual(form.offer.controlNets, [])
    }

    func testEveryFieldStandsInTheRequest() throws {
        var form = try form()
        (form.prompt, form.negativePrompt, form.seed, form.steps) = ("a (red:1.2) apple", "blurry", 7, 3)
        (form.guidance, form.sampler, form.readsWeights) = (4, "euler", true)
        (form.showsSteps, form.isChecked) = (false, false)
        let request = try form.request()
        XCTAssertEqual(request.prompt, "a (red:1.2) apple")
        XCTAssertEqual(request.negativePrompt, "blurry")
        XCTAssertEqual([request.seed, UInt64(request.steps ?? 0)], [7, 3])
        XCTAssertEqual(request.guidanceScale, 4)
        XCTAssertEqual(request.sampler, "euler")
        XCTAssertEqual(request.syntax, .a1111)
        XCTAssertEqual(request.previews, .none)
        XCTAssertFalse(request.isChecked)
        XCTAssertNil(request.given)
        form.seed = -1
        XCTAssertEqual(try form.request().seed, 0)
        form.prompt = " "
        XCTAssertEqual(form.missing, "Say what to draw.")
        XCTAssertThrowsError(try form.request())
    }

    func testAPictureOfAnySizeIsStartedFromAndPaintedInto() throws {
        var form = try form(TestBundle.components + [.encoder])
        XCTAssertTrue(form.offer.takesPicture && form.offer.takesMask)
        XCTAssertEqual(try form.use(picture(32, 16)), "The picture of 32x16 was scaled to 16x8 and cut to 8x8.")
        XCTAssertEqual(try form.request().given?.strength, 0.8)
        XCTAssertNil(try form.request().given?.mask)
        form.strength = 0.5
        form.mask.touch(.init(0, 0), radius: 0.3)
        XCTAssertEqual(form.strength, 1)
        let given = try XCTUnwrap(try form.request().given)
        XCTAssertEqual(given.strength, 1)
        XCTAssertEqual(given.mask, form.mask.raster(width: 8, height: 8))
        // Painted and taken away again: the whole picture.
        form.mask.lift()
        form.mask.touch(.init(0, 0), radius: 1, erases: true)
        XCTAssertNil(try form.request().given?.mask)
        form.mask.clear()
        XCTAssertEqual(form.strength, 0.5)
        form.removePicture()
        XCTAssertNil(try form.request().given)
        var plain = try self.form()
        XCTAssertThrowsError(try plain.use(picture())) { XCTAssertTrue("\($0)".contains("--with encoder")) }
    }

    func testControlPicturesHaveScales() throws {
        let edges = try XCTUnwrap(ComponentName(rawValue: "control_edges"))
        var form = try form(TestBundle.components + [edges])
        XCTAssertEqual(form.offer.controlNets, ["edges"])
        XCTAssertEqual(try form.control("edges", by: picture(4, 4)), "The picture of 4x4 was scaled to 8x8.")
        form.scaleControl("edges", to: 0.5)
        XCTAssertNil(try form.control("edges", by: picture()))
        let (control) = try XCTUnwrap(try form.request().controls.first)
        XCTAssertEqual(control.scale, 0.5)
        XCTAssertEqual(control.picture.shape, [1, 3, 8, 8])
        XCTAssertEqual(control.picture.floats.first, Float(90) / 255)
        XCTAssertThrowsError(try form.control("pose", by: picture()))
        // Another bundle, which has none.
        form.adopt(try manifest())
        XCTAssertEqual(try form.request().controls.count, 0)
    }

    func testWhatAModelNeedsIsSaid() throws {
        for (task, sentences) in [
            ("inpainting", ["This model repaints a part of a picture: choose one.", "Paint over what is to be drawn anew."]),
            ("instructed-editing", ["This model edits a picture: choose one."]),
        ] {
            let bundle = try TestBundle.make(in: temporaryFolder(), components: TestBundle.components + [.encoder]) {
                $0.replacingOccurrences(of: "text-to-image", with: task)
            }
            var form = DrawingForm()
            form.adopt(bundle.manifest)
            XCTAssertEqual(form.missing, sentences[0])
            try form.use(picture())
            XCTAssertEqual(form.missing, sentences.dropFirst().first)
            XCTAssertEqual(form.offer.takesMask, task == "inpainting")
            form.mask.touch(.init(0.5, 0.5), radius: 0.2)
            XCTAssertNil(form.missing)
            let given = try XCTUnwrap(try form.request().given)
            XCTAssertEqual(given.mask != nil, task == "inpainting")
            XCTAssertEqual(given.pictureGuidance, task == "inpainting" ? nil : 1.5)
        }
    }
}
