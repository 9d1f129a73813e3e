import Foundation
import SnapFusionKit
import XCTest

/// Beside transformers' image processor and diffusers' safety checker.
final class SafetyCheckerTests: XCTestCase {
    private struct Case: Decodable {
        let mean: [Double]
        let std: [Double]
        let concepts: [[Float]]
        let special_care: [[Float]]
        let concept_thresholds: [Double]
        let special_care_thresholds: [Double]
        let embeddings: [[Float]]
        let scores: [[Double]]
        let flagged: [Bool]
    }

    private func golden() throws -> (SafetyChecker, Case) {
        let golden = try GoldenFiles.json("safety.json", as: Case.self)
        let record = SafetyRecord(
            concepts: "concepts.npy", specialCare: "special_care.npy", conceptThresholds: golden.concept_thresholds,
            specialCareThresholds: golden.special_care_thresholds,
            picture: .init(shortestEdge: 24, cropSize: 20, mean: golden.mean, std: golden.std))
        return (SafetyChecker(record: record, concepts: golden.concepts, specialCare: golden.special_care), golden)
    }

    func testPicturesComeToItAsTransformersBringsThem() throws {
        let (checker, _) = try golden()
        for index in 0..<4 {
            let array = try GoldenFiles.array("safety/\(index).picture.npy")
            guard case .uint8(let pixels) = array.elements else { return XCTFail("no pixels") }
            let picture = try GeneratedPicture(width: array.shape[1], height: array.shape[0], pixels: pixels)
            let expected = try GoldenFiles.floats("safety/\(index).values.npy")
            XCTAssertLessThanOrEqual(maxDifference(try checker.pixelValues(picture).floats, expected), 1e-6, "\(index)")
        }
    }

    func testVerdictsAreDiffusers() throws {
        let (checker, golden) = try golden()
        for (index, embedding) in golden.embeddings.enumerated() {
            let verdict = checker.judge(embedding)
            let found = (verdict.specialCare + verdict.concepts).map { Float($0) }
            XCTAssertLessThanOrEqual(maxDifference(found, golden.scores[index].map { Float($0) }), 1e-6)
            XCTAssertEqual(verdict.isFlagged, golden.flagged[index], "\(index)")
        }
        XCTAssertEqual(Set(golden.flagged), [true, false])
    }

    private func pipeline(threshold: String, _ runner: RecordingRunner) throws -> TextToImage {
        let components = TestBundle.components + [.safetyChecker]
        let bundle = try TestBundle.make(in: temporaryFolder(), components: components) {
            $0.replacingOccurrences(of: #""concept_thresholds": [0.5]"#, with: #""concept_thresholds": [\#(threshold)]"#)
        }
        return try TextToImage(bundle: bundle, runner: runner, keepLoaded: false)
    }

    func testAFlaggedPictureIsBlackAndSaysSo() async throws {
        var request = TextToImage.Request(prompt: "a red apple", seed: 3, steps: 1)
        for (threshold, word, score) in [("0.5", "flagged", 0.495), ("1", "passed", -0.005)] {
            let runner = RecordingRunner()
            var verdict: SafetyChecker.Verdict?
            var picture: GeneratedPicture?
            for try await event in try pipeline(threshold: threshold, runner).run(request) {
                if case .checked(let found, _) = event { verdict = found }
                if case .picture(let drawn, _, _) = event { picture = drawn }
            }
            XCTAssertEqual(verdict?.concepts, [Double(Float(score))])
            XCTAssertEqual(verdict?.isFlagged, word == "flagged")
            XCTAssertEqual(picture?.pixels.allSatisfy { $0 == 0 }, word == "flagged")
            XCTAssertEqual(picture?.settings.last, .init("safety_checker", .string(word)))
            // One in memory at a time, this one too.
            let most = await runner.most
            XCTAssertEqual(most, 1)
        }
        request.isChecked = false
        let runner = RecordingRunner()
        let drawn = try await pipeline(threshold: "0.5", runner).picture(request)
        XCTAssertTrue(drawn.pixels.contains { $0 > 0 })
        XCTAssertEqual(drawn.settings.last, .init("safety_checker", .string("off")))
        let calls = await runner.calls
        XCTAssertFalse(calls.contains(.load(.safetyChecker)))
    }

    func testConceptsThatDoNotFitAreRefused() throws {
        let bundle = try TestBundle.make(in: temporaryFolder(), components: TestBundle.components + [.safetyChecker]) {
            $0.replacingOccurrences(of: #""concept_thresholds": [0.5]"#, with: #""concept_thresholds": [0.5, 0.6]"#)
        }
        XCTAssertThrowsError(try SafetyChecker(bundle: bundle)) {
            XCTAssertTrue("\($0)".contains("expected float32 (2, 2)"), "\($0)")
        }
        XCTAssertNil(try SafetyChecker(bundle: TestBundle.make(in: temporaryFolder())))
        XCTAssertThrowsError(
            try TestBundle.make(in: temporaryFolder(), components: TestBundle.components + [.safetyChecker]) {
                $0.replacingOccurrences(of: #""safety":"#, with: #""safeties":"#)
            })
    }
}
