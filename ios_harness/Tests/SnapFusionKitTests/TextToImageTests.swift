import SnapFusionKit
import XCTest

final class TextToImageTests: XCTestCase {
    private let request = TextToImage.Request(prompt: "a red apple", negativePrompt: "blurry", seed: 3, steps: 4)

    private func events(_ pipeline: TextToImage, _ request: TextToImage.Request) async throws -> [TextToImage.Event] {
        var events: [TextToImage.Event] = []
        for try await event in pipeline.run(request) { events.append(event) }
        return events
    }

    private func pipeline(
        _ runner: RecordingRunner, batch: Int = 2, keepLoaded: Bool = true,
        components: [ComponentName] = TestBundle.components
    ) throws -> TextToImage {
        let bundle = try TestBundle.make(in: temporaryFolder(), batch: batch, components: components)
        return try TextToImage(bundle: bundle, runner: runner, keepLoaded: keepLoaded)
    }

    func testARunTellsItsTokensNoiseStepsAndPicture() async throws {
        let runner = RecordingRunner()
        let pipeline = try pipeline(runner)
        let events = try await events(pipeline, request)
        var steps: [TextToImage.Step] = []
        var picture: GeneratedPicture?
        for event in events {
            switch event {
            case .encoded(let tokens, let negative, _):
                XCTAssertEqual(tokens, pipeline.tokenizer.encode("a red apple"))
                XCTAssertEqual(negative, pipeline.tokenizer.encode("blurry"))
            case .noise(let noise):
                var generator = TorchGenerator(seed: 3)
                XCTAssertEqual(noise.floats, generator.normal(count: 64))
            case .step(let step): steps.append(step)
            case .picture(let made, _, _): picture = made
            case .loaded, .checked: break
            }
        }
        XCTAssertEqual(steps.map(\.timestep), try pipeline.bundle.manifest.sampler.start(steps: 4).timesteps)
        XCTAssertEqual(steps.map(\.index), [0, 1, 2, 3])
        XCTAssertEqual(picture?.width, 8)
        XCTAssertEqual(picture?.settings.first { $0.key == "seed" }?.value, .integer(3))
        // Each step follows from the one before by the scheduler's formula.
        var sampler = try pipeline.bundle.manifest.sampler.start(steps: 4)
        var generator = TorchGenerator(seed: 3)
        var latents = generator.normal(count: 64)
        for step in steps {
            let expected = try sampler.step(
                modelOutput: step.modelOutput.floats, latents: latents, noise: &generator)
            XCTAssertEqual(step.latents.floats, expected.latents)
            XCTAssertEqual(step.denoised.floats, expected.denoised)
            latents = expected.latents
        }
    }

    func testBothBatchesDrawTheSamePicture() async throws {
        let two = try await pipeline(RecordingRunner(), batch: 2).picture(request)
        let one = try await pipeline(RecordingRunner(), batch: 1).picture(request)
        XCTAssertEqual(two.pixels, one.pixels)
    }

    func testAtScaleOneTheUnconditionalHalfIsNeverRun() async throws {
        let runner = RecordingRunner()
        var plain = request
        plain.guidanceScale = 1
        _ = try await pipeline(runner, batch: 1).picture(plain)
        let calls = await runner.calls
        XCTAssertEqual(calls.filter { $0 == .predict(.textEncoder) }.count, 1)
        XCTAssertEqual(calls.filter { $0 == .predict(.unet) }.count, 4)
    }

    func testHiddenStatesAreOneTensorForAllSteps() async throws {
        let runner = RecordingRunner()
        _ = try await pipeline(runner).picture(request)
        let states = await runner.unetInputs.compactMap { $0["encoder_hidden_states"] }
        XCTAssertEqual(states.count, 4)
        XCTAssertTrue(states.allSatisfy { $0 === states[0] }, "an engine can keep its converted copy")
    }

    func testLowMemoryKeepsOneComponentAtATime() async throws {
        let runner = RecordingRunner()
        let frugal = try await pipeline(runner, keepLoaded: false).picture(request)
        let (most, loaded) = (await runner.most, await runner.loaded)
        XCTAssertEqual(most, 1)
        XCTAssertEqual(loaded, [])
        let lavish = try await pipeline(RecordingRunner()).picture(request)
        XCTAssertEqual(frugal.pixels, lavish.pixels)
    }

    func testCancellingFreesTheModels() async throws {
        let runner = RecordingRunner(delay: .milliseconds(20))
        let pipeline = try pipeline(runner)
        var long = request
        long.steps = 50
        let drawing = Task { [long] in try await pipeline.picture(long) }
        while await runner.unetInputs.count < 2 { try await Task.sleep(for: .milliseconds(1)) }
        drawing.cancel()
        _ = await drawing.result
        try await waitUntilFreed(runner)
        let calls = await runner.unetInputs.count
        XCTAssertLessThan(calls, 10)
    }

    func testCancellingTheTaskThatIteratesThrows() async throws {
        let runner = RecordingRunner(delay: .milliseconds(20))
        let pipeline = try pipeline(runner)
        var long = request
        long.steps = 50
        let drawing = Task { [long] in
            for try await _ in pipeline.run(long) {}
        }
        while await runner.unetInputs.count < 2 { try await Task.sleep(for: .milliseconds(1)) }
        drawing.cancel()
        let result = await drawing.result
        XCTAssertThrowsError(try result.get(), "a cancelled run doesn't look like one that is done") {
            XCTAssertTrue($0 is CancellationError)
        }
        try await waitUntilFreed(runner)
    }

    func testPrewarmingLoadsAndRunsEveryComponentOnce() async throws {
        let runner = RecordingRunner()
        let seconds = try await pipeline(runner).prewarm()
        XCTAssertEqual(Set(seconds.keys), Set(TestBundle.components))
        let calls = await runner.calls
        XCTAssertEqual(calls, TestBundle.components.flatMap { [.load($0), .predict($0)] })
        let frugal = RecordingRunner()
        _ = try await pipeline(frugal, keepLoaded: false).prewarm()
        let (most, loaded) = (await frugal.most, await frugal.loaded)
        XCTAssertEqual(most, 1)
        XCTAssertEqual(loaded, [])
    }

    func testTheNextStepIsUnderWayWhileAPreviewIsShown() async throws {
        let runner = RecordingRunner()
        var previewed = request
        previewed.previews = .linear
        let plain = try await events(pipeline(RecordingRunner()), request)
        var steps: [TextToImage.Step] = []
        for event in try await events(pipeline(runner), previewed) {
            if case .step(let step) = event { steps.append(step) }
        }
        // The same steps, each from the latents before it, and one call of the UNet for each.
        let expected = plain.compactMap { if case .step(let step) = $0 { step.latents.floats } else { nil } }
        XCTAssertEqual(steps.map(\.latents.floats), expected)
        let calls = await runner.unetInputs.count
        XCTAssertEqual(calls, 4)
        let together = await runner.mostAtOnce
        XCTAssertEqual(together, 1, "an engine never gets two requests at a time")
    }

    func testEndingTheIterationFreesTheModels() async throws {
        let runner = RecordingRunner(delay: .milliseconds(5))
        var long = request
        long.steps = 50
        for try await event in try pipeline(runner).run(long) {
            if case .step(let step) = event, step.index == 1 { break }
        }
        try await waitUntilFreed(runner)
    }

    private func waitUntilFreed(_ runner: RecordingRunner) async throws {
        for _ in 0..<1000 {
            if await runner.loaded.isEmpty { return }
            try await Task.sleep(for: .milliseconds(5))
        }
        XCTFail("components are still loaded")
    }

    func testNaNIsNamedWithItsStepAndFreesTheModels() async throws {
        let runner = RecordingRunner(brokenStep: 3)
        let pipeline = try pipeline(runner)
        await assertThrows(ComponentError.nonFinite(.unet, output: "model_output", step: 3, count: 1)) {
            _ = try await pipeline.picture(request)
        }
        let loaded = await runner.loaded
        XCTAssertEqual(loaded, [])
    }

    func testAWrongShapeIsNamed() async throws {
        let pipeline = try pipeline(RecordingRunner(wrongShape: .unet))
        await assertThrows(
            ComponentError.badOutput(
                .unet, output: "model_output", expected: "float32 (2, 4, 4, 4)", found: "float32 (128,)")
        ) {
            _ = try await pipeline.picture(request)
        }
    }

    func testABadRequestIsRefusedBeforeAnythingIsLoaded() async throws {
        let runner = RecordingRunner()
        let pipeline = try pipeline(runner)
        var none = request
        none.steps = 0
        var negative = request
        negative.guidanceScale = -1
        for bad in [none, negative] {
            do {
                _ = try await pipeline.picture(bad)
                XCTFail("nothing was thrown")
            } catch { XCTAssertTrue(error is UsageError) }
        }
        let calls = await runner.calls
        XCTAssertEqual(calls, [])
    }

    func testAMissingComponentIsNamed() async throws {
        let pipeline = try pipeline(RecordingRunner(), components: [.textEncoder, .decoder])
        await assertThrows(ComponentError.missing(.unet)) { _ = try await pipeline.picture(request) }
    }

    func testLinearPreviewsFollowTheDecoder() async throws {
        var previewed = request
        previewed.previews = .linear
        let plain = try await pipeline(RecordingRunner()).picture(request)
        var previews: [GeneratedPicture] = []
        var pixels: [UInt8] = []
        for event in try await events(pipeline(RecordingRunner()), previewed) {
            if case .step(let step) = event { previews.append(try XCTUnwrap(step.preview)) }
            if case .picture(let picture, _, _) = event { pixels = picture.pixels }
        }
        XCTAssertEqual(previews.map(\.width), [4, 4, 4, 4])
        XCTAssertEqual(pixels, plain.pixels, "previews don't change the picture")
    }

    func testDecodedPreviewsAreWholePicturesAndNeedTheDecoderLoaded() async throws {
        var previewed = request
        previewed.previews = .decoded
        let steps = try await events(pipeline(RecordingRunner()), previewed).compactMap {
            if case .step(let step) = $0 { step } else { nil }
        }
        XCTAssertEqual(steps.compactMap(\.preview?.width), [8, 8, 8, 8])
        do {
            _ = try await pipeline(RecordingRunner(), keepLoaded: false).picture(previewed)
            XCTFail("nothing was thrown")
        } catch { XCTAssertTrue(error is UsageError) }
    }
}
