import SnapFusionKit
import XCTest

final class ControlTests: XCTestCase {
    private let request = TextToImage.Request(prompt: "a red apple", negativePrompt: "blurry", seed: 3, steps: 4)

    private func names(_ controls: [String]) throws -> [ComponentName] {
        try TestBundle.components + controls.map { try XCTUnwrap(ComponentName(rawValue: "control_\($0)")) }
    }

    private func pipeline(_ runner: RecordingRunner, batch: Int = 2, _ controls: [String]) throws -> TextToImage {
        let bundle = try TestBundle.make(in: temporaryFolder(), batch: batch, components: names(controls))
        return try TextToImage(bundle: bundle, runner: runner)
    }

    private func picture(_ brightness: Float) throws -> HostTensor {
        try HostTensor(shape: [1, 3, 8, 8], [Float](repeating: brightness, count: 192))
    }

    private func drawn(_ controls: [Control], batch: Int = 2, under names: [String]) async throws -> (
        GeneratedPicture, [[String: HostTensor]]
    ) {
        let runner = RecordingRunner()
        var request = request
        request.controls = controls
        let picture = try await pipeline(runner, batch: batch, names).picture(request)
        return (picture, await runner.unetInputs)
    }

    func testWithoutAPictureTheUNetGetsZerosAndDrawsWhatItDrew() async throws {
        let (plain, _) = try await drawn([], under: [])
        let (controlled, inputs) = try await drawn([], under: ["edges"])
        XCTAssertEqual(plain.pixels, controlled.pixels)
        XCTAssertTrue(inputs.allSatisfy { $0["residual_0"]?.floats.allSatisfy { $0 == 0 } == true })
    }

    func testResidualsAreScaledSummedAndTimed() async throws {
        let controls = [
            Control(name: "edges", picture: try picture(0.5), scale: 2, end: 0.5),
            Control(name: "depth", picture: try picture(0.25), scale: 0.5, start: 0.25),
        ]
        let (_, inputs) = try await drawn(controls, under: ["edges", "depth"])
        // What the arithmetic of each gives, times its scale: edges for two of four steps, depth for all but the first.
        let shares: [Float] = [1, 1 + 0.125, 0.125, 0.125]
        XCTAssertEqual(inputs.count, 4)
        for (call, share) in zip(inputs, shares) {
            let latents = try XCTUnwrap(call["latents"]).floats
            let found = try XCTUnwrap(call["residual_0"]).floats
            XCTAssertLessThanOrEqual(maxDifference(found, latents.map { share * $0 }), 1e-6)
            XCTAssertEqual(call["residual_1"]?.shape, [2, 4, 2, 2])
        }
    }

    func testBothBatchesDrawTheSamePicture() async throws {
        let control = Control(name: "edges", picture: try picture(0.5))
        let (two, _) = try await drawn([control], under: ["edges"])
        let (one, calls) = try await drawn([control], batch: 1, under: ["edges"])
        XCTAssertEqual(two.pixels, one.pixels)
        XCTAssertEqual(calls.count, 8)
        XCTAssertEqual(two.settings.first { $0.key == "control_edges_scale" }?.value, .number(1))
    }

    func testWhatCannotControlIsRefusedBeforeAnythingIsLoaded() async throws {
        let good = try picture(0.5)
        let cases: [(Control, String)] = [
            (Control(name: "pose", picture: good), "no ControlNet 'pose' (its are edges)"),
            (Control(name: "No Name", picture: good), "no ControlNet 'No Name'"),
            (
                Control(name: "edges", picture: try HostTensor(shape: [1, 3, 1, 1], [0, 0, 0] as [Float])),
                "has the shape (1, 3, 1, 1); expected (1, 3, 8, 8)"
            ),
            (Control(name: "edges", picture: good, scale: .nan), "makes no sense"),
            (Control(name: "edges", picture: good, start: 0.5, end: 0.5), "from 0.5 to 0.5 of the steps"),
            (Control(name: "edges", picture: good, end: 1.5), "from 0.0 to 1.5 of the steps"),
        ]
        for (control, words) in cases {
            let runner = RecordingRunner()
            var request = request
            request.controls = [control]
            do {
                _ = try await pipeline(runner, ["edges"]).picture(request)
                XCTFail("expected a refusal: \(words)")
            } catch {
                XCTAssertTrue("\(error)".contains(words), "\(error)")
            }
            let calls = await runner.calls
            XCTAssertEqual(calls, [])
        }
    }
}
