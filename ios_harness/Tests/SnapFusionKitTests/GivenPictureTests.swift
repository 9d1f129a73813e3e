import SnapFusionKit
import XCTest

/// Runs from a picture, over an encoder in plain arithmetic.
final class GivenPictureTests: XCTestCase {
    private var request: TextToImage.Request {
        TextToImage.Request(prompt: "a red apple", negativePrompt: "blurry", seed: 3, steps: 5)
    }

    private func picture(width: Int = 8) throws -> GeneratedPicture {
        try GeneratedPicture(width: width, height: 8, pixels: (0..<24 * width).map { UInt8($0 * 5 % 256) })
    }

    /// The right half is drawn anew.
    private let mask = (0..<64).map { $0 % 8 >= 4 }

    private func pipeline(
        _ runner: RecordingRunner, batch: Int = 2, encoder: Bool = true, editing: (String) -> String = { $0 }
    ) throws -> TextToImage {
        let components = TestBundle.components + (encoder ? [.encoder] : [])
        let bundle = try TestBundle.make(in: temporaryFolder(), batch: batch, components: components, editing: editing)
        return try TextToImage(bundle: bundle, runner: runner)
    }

    private func drawn(
        _ given: GivenPicture, batch: Int = 2
    ) async throws -> (steps: [TextToImage.Step], picture: GeneratedPicture, calls: [RecordingRunner.Call]) {
        let runner = RecordingRunner()
        var request = request
        request.given = given
        var steps: [TextToImage.Step] = []
        var picture: GeneratedPicture?
        for try await event in try pipeline(runner, batch: batch).run(request) {
            if case .step(let step) = event { steps.append(step) }
            if case .picture(let made, _, _) = event { picture = made }
        }
        return (steps, try XCTUnwrap(picture), await runner.calls)
    }

    func testAStrengthLeavesOutTheNoisiestSteps() async throws {
        let given = try GivenPicture(picture(), strength: 0.6)
        let found = try await drawn(given)
        let all = try pipeline(RecordingRunner()).bundle.manifest.sampler.start(steps: 5).timesteps
        XCTAssertEqual(found.steps.map(\.timestep), Array(all[2...]))
        XCTAssertEqual(found.steps.map(\.index), [0, 1, 2])
        XCTAssertEqual(found.calls.filter { $0 == .predict(.encoder) }.count, 1)
        XCTAssertEqual(found.picture.settings.first { $0.key == "strength" }?.value, .number(0.6))
        XCTAssertNotNil(found.picture.settings.first { $0.key == "image_sha256" })
        let one = try await drawn(given, batch: 1)
        XCTAssertEqual(one.picture.pixels, found.picture.pixels)
    }

    func testWhatAMaskLeavesIsPutBackAtEveryStepAndInThePicture() async throws {
        let given = try GivenPicture(picture(), mask: mask)
        let found = try await drawn(given)
        XCTAssertEqual(found.steps.count, 5)
        // Behind the last step what isn't covered is the picture's latents: what its encoding says, drawn with the first
        // noise of the seed.
        var generator = TorchGenerator(seed: 3)
        let (posterior, unit) = (generator.normal(count: 64), generator.normal(count: 64))
        let image = given.picture.pixels.indices.map { index -> Float in
            let (pixel, channel) = (index % 64, index / 64)
            return 2 * (Float(given.picture.pixels[3 * pixel + channel]) / 255) - 1
        }
        let means = RecordingRunner.means(image)
        let clean = means.indices.map { 0.5 * (means[$0] + exp(0.5 * RecordingRunner.logVariance) * posterior[$0]) }
        let (first, last) = (found.steps[0].latents.floats, found.steps[4].latents.floats)
        var sampler = try pipeline(RecordingRunner()).bundle.manifest.sampler.start(steps: 5)
        var noise = TorchGenerator(seed: 1)
        _ = try sampler.step(modelOutput: unit, latents: unit, noise: &noise)
        let amplitudes = try XCTUnwrap(sampler.amplitudes)
        for index in clean.indices where index % 4 < 2 {
            XCTAssertEqual(last[index], clean[index], accuracy: 1e-5)
            let noised = Float(amplitudes.signal) * clean[index] + Float(amplitudes.noise) * unit[index]
            XCTAssertEqual(first[index], noised, accuracy: 1e-5)
        }
        XCTAssertGreaterThan(maxDifference(last, clean), 0.05, "the covered half is drawn")
        for index in mask.indices where !mask[index] {
            let pixel = 3 * index..<3 * index + 3
            XCTAssertEqual(found.picture.pixels[pixel], given.picture.pixels[pixel], "pixel \(index)")
        }
        let loose = try await drawn(GivenPicture(picture(), mask: mask, pastes: false))
        XCTAssertEqual(loose.steps[4].latents.floats, last)
        XCTAssertNotEqual(loose.picture.pixels, found.picture.pixels, "the decoder's own pixels")
        // Far from the edge the covered half is the decoder's.
        XCTAssertEqual(loose.picture.pixels[3 * 7..<24], found.picture.pixels[3 * 7..<24])
    }

    func testWhatCanNotBeTakenIsRefusedBeforeAnythingIsLoaded() async throws {
        let edits = { (text: String) in text.replacingOccurrences(of: "text-to-image", with: "instructed-editing") }
        let inpaints = { (text: String) in text.replacingOccurrences(of: "text-to-image", with: "inpainting") }
        let plain = { (text: String) in text }
        let cases: [(GivenPicture?, Bool, (String) -> String, String)] = [
            (try GivenPicture(picture(width: 16)), true, plain, "draws 8x8 pixels, and the picture has 16x8"),
            (try GivenPicture(picture(), strength: 0), true, plain, "the strength 0.0 makes no sense"),
            (try GivenPicture(picture(), strength: 0.1), true, plain, "leaves none of 5 steps"),
            (try GivenPicture(picture(), pictureGuidance: 2), true, plain, "isn't guided by pictures"),
            (try GivenPicture(picture()), false, plain, "encoder"),
            (nil, true, edits, "edits a picture; give one"),
            (try GivenPicture(picture(), strength: 0.5), true, edits, "neither a mask nor a strength"),
            (nil, true, inpaints, "give a picture and its mask"),
            (try GivenPicture(picture()), true, inpaints, "white where to draw"),
        ]
        for (given, encoder, editing, words) in cases {
            let runner = RecordingRunner()
            var request = request
            request.given = given
            do {
                _ = try await pipeline(runner, encoder: encoder, editing: editing).picture(request)
                XCTFail("expected a refusal: \(words)")
            } catch {
                XCTAssertTrue("\(error)".contains(words), "\(error)")
            }
            let calls = await runner.calls
            XCTAssertEqual(calls, [])
        }
    }

    func testMasksThatCoverNothingOrAreOfAnotherSizeAreRefused() throws {
        let masks = [([true], "isn't of the picture's size"), ([Bool](repeating: false, count: 64), "covers nothing")]
        for (mask, words) in masks {
            XCTAssertThrowsError(try GivenPicture(picture(), mask: mask)) {
                XCTAssertTrue($0 is UsageError && "\($0)".contains(words), "\($0)")
            }
        }
    }
}
