#if os(Linux) || os(macOS)
    import SnapFusionKit
    import XCTest

    final class ProcessRunnerTests: XCTestCase {
        private final class Marker {}

        private func runner(_ mode: String, seconds: Double = 20) throws -> ProcessRunner {
            let products = Bundle(for: Marker.self).bundleURL.deletingLastPathComponent()
            let candidates = [products, Bundle.main.bundleURL, Bundle.main.bundleURL.deletingLastPathComponent()]
            let worker = try XCTUnwrap(
                candidates.map { $0.appendingPathComponent("FakeWorker").path }.first {
                    FileManager.default.isExecutableFile(atPath: $0)
                })
            var timeouts = ProcessRunner.Timeouts()
            (timeouts.start, timeouts.load, timeouts.predict) = (seconds, seconds, seconds)
            return ProcessRunner(command: [worker, mode], timeouts: timeouts)
        }

        private let latents = ["latents": [Float](repeating: 1, count: 64)]

        private func predict(_ mode: String, seconds: Double = 20) async throws -> ComponentPrediction {
            let runner = try runner(mode, seconds: seconds)
            try await runner.load(.decoder)
            return try await runner.predict(
                .decoder, inputs: latents.mapValues { try HostTensor(shape: [1, 4, 4, 4], $0) })
        }

        func testLoadPredictUnload() async throws {
            let runner = try runner("good")
            let description = try await runner.describe().description
            XCTAssertTrue(description.hasPrefix("fake"))
            let (first, second) = (
                try await runner.load(.decoder).seconds, try await runner.load(.decoder).seconds
            )
            XCTAssertEqual(first, 0.25)
            XCTAssertEqual(second, 0, "it was loaded already")
            let inputs = try latents.mapValues { try HostTensor(shape: [1, 4, 4, 4], $0) }
            let prediction = try await runner.predict(.decoder, inputs: inputs)
            XCTAssertEqual(prediction.seconds, 0.125)
            XCTAssertEqual(prediction.outputs["image"]?.shape, [1, 3, 8, 8])
            await runner.unload(.decoder)
            await assertThrows(ComponentError.notLoaded(.decoder)) {
                _ = try await runner.predict(.decoder, inputs: inputs)
            }
            #if os(Linux)
                let memory = await runner.memory()
                XCTAssertGreaterThan(try XCTUnwrap(memory).total, 1 << 20)
            #endif
            await runner.close()
        }

        func testAWholeRunOverPipes() async throws {
            let runner = try runner("good")
            let bundle = try TestBundle.make(in: temporaryFolder())
            let picture = try await TextToImage(bundle: bundle, runner: runner).picture(
                TextToImage.Request(prompt: "a", steps: 3))
            XCTAssertEqual(Set(picture.pixels), [128], "an image of zeros is grey")
        }

        func testAWorkerThatDiesIsNamedWithItsLastWords() async throws {
            await assertThrows(
                WorkerError.died(during: "its start", exitCode: 7, log: "no module named sfmobile")
            ) { _ = try await predict("dead at start") }
            await assertThrows(WorkerError.died(during: "load of decoder", exitCode: 9, log: "")) {
                _ = try await predict("dead on load")
            }
            await assertThrows(WorkerError.died(during: "prediction of decoder", exitCode: 9, log: "Killed")) {
                _ = try await predict("dead on predict")
            }
            await assertThrows(WorkerError.died(during: "prediction of decoder", exitCode: 0, log: "")) {
                _ = try await predict("half a reply")
            }
        }

        func testAWorkerThatHangsIsEnded() async throws {
            await assertThrows(WorkerError.timedOut(during: "its start", seconds: 0.2)) {
                _ = try await predict("silent", seconds: 0.2)
            }
            await assertThrows(WorkerError.timedOut(during: "prediction of decoder", seconds: 3)) {
                _ = try await predict("hangs", seconds: 3)
            }
        }

        func testAfterAFailureEveryRequestFailsTheSameWay() async throws {
            let runner = try runner("dead on load")
            let failure = WorkerError.died(during: "load of unet", exitCode: 9, log: "")
            await assertThrows(failure) { try await runner.load(.unet) }
            await assertThrows(failure) { try await runner.load(.decoder) }
            await assertThrows(failure) { _ = try await runner.describe() }
        }

        func testBytesThatAreNotTheProtocolAreRefused() async throws {
            let modes = [
                "no protocol", "new version", "endless", "other id", "other kind", "short body", "long body",
                "unknown type", "huge tensor",
            ]
            for mode in modes {
                do {
                    _ = try await predict(mode)
                    XCTFail("\(mode): nothing was thrown")
                } catch WorkerError.badProtocol {
                } catch { XCTFail("\(mode): \(error)") }
            }
        }

        func testRefusalsCarryTheWorkersSentence() async throws {
            await assertThrows(
                WorkerError.refused(during: "load of decoder", code: 5, "'x/manifest.json' is missing.")
            ) { _ = try await predict("bad bundle") }
            let runner = try runner("refuses load")
            await assertThrows(
                WorkerError.refused(during: "load of unet", code: 2, "The bundle has no such component.")
            ) { try await runner.load(.unet) }
            let description = try await runner.describe().description
            XCTAssertTrue(description.hasPrefix("fake"), "a refusal that isn't fatal leaves the worker alive")
        }

        func testAProgramThatDoesNotExistIsNamed() async throws {
            let runner = ProcessRunner(command: ["/nowhere/python", "-m", "x"])
            await assertThrows(
                WorkerError.notStarted(command: "/nowhere/python -m x", "there is no such program")
            ) { try await runner.load(.unet) }
        }

        func testInfinityAndWrongShapesAreNamedWithTheStep() async throws {
            let bundle = try TestBundle.make(in: temporaryFolder())
            let request = TextToImage.Request(prompt: "a", steps: 3)
            let infinite = try TextToImage(bundle: bundle, runner: runner("infinite in step 2"))
            await assertThrows(ComponentError.nonFinite(.unet, output: "model_output", step: 2, count: 128)) {
                _ = try await infinite.picture(request)
            }
            let wrong = try TextToImage(bundle: bundle, runner: runner("one row"))
            await assertThrows(
                ComponentError.badOutput(
                    .unet, output: "model_output", expected: "float32 (2, 4, 4, 4)", found: "float32 (1, 4, 4, 4)")
            ) { _ = try await wrong.picture(request) }
        }

        func testCancellingEndsTheWorkerAtOnceAndTheNextRunStartsAnother() async throws {
            let runner = try runner("hangs", seconds: 60)
            try await runner.load(.decoder)
            let first = try await runner.describe().description
            let inputs = try latents.mapValues { try HostTensor(shape: [1, 4, 4, 4], $0) }
            let task = Task { try await runner.predict(.decoder, inputs: inputs) }
            try await Task.sleep(for: .milliseconds(50))
            let start = ContinuousClock.now
            task.cancel()
            let result = await task.result
            XCTAssertLessThan(start.secondsSince(), 10)
            XCTAssertThrowsError(try result.get()) { XCTAssertTrue($0 is CancellationError, "\($0)") }
            let second = try await runner.describe().description
            XCTAssertNotEqual(first, second, "another process answers")
        }
    }
#endif
