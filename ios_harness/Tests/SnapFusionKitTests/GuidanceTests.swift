import SnapFusionKit
import XCTest

final class GuidanceTests: XCTestCase {
    private struct Golden: Decodable {
        let scales: [Float]
    }

    func testCombinationEqualsTorch() throws {
        let scales = try GoldenFiles.json("guidance.json", as: Golden.self).scales
        let rows = try GoldenFiles.floats("guidance.npy")
        func row(_ index: Int) -> [Float] { Array(rows[index * 256..<(index + 1) * 256]) }
        for (index, scale) in scales.enumerated() {
            XCTAssertEqual(
                ClassifierFreeGuidance.combine(row(0), row(1), scale: scale), row(index + 2), "scale \(scale)")
        }
    }

    private func conditions(_ value: Float) throws -> ClassifierFreeGuidance.Conditions {
        let states = try HostTensor(shape: [1, 2, 1, 3], [Float](repeating: value, count: 6))
        return ["encoder_hidden_states": states]
    }

    /// A UNet whose output is latents times the first value of each row's hidden states, and the calls it got.
    private actor Calls {
        private(set) var inputs: [[String: HostTensor]] = []

        func unet(_ given: [String: HostTensor]) throws -> HostTensor {
            inputs.append(given)
            let latents = try XCTUnwrap(given["latents"])
            let states = try XCTUnwrap(given["encoder_hidden_states"])
            let rows = latents.shape[0]
            let size = latents.count / rows
            let values = latents.floats.enumerated().map { $1 * states.floats[$0 / size * (states.count / rows)] }
            return try HostTensor(shape: latents.shape, values)
        }
    }

    private func guided(
        batch: Int, scale: Double, unconditional: Float?
    ) async throws -> (HostTensor, Calls, ClassifierFreeGuidance) {
        let calls = Calls()
        let guidance = try ClassifierFreeGuidance(
            batch: batch, scale: scale, conditional: conditions(3), unconditional: unconditional.map(conditions))
        let latents = try HostTensor(shape: [1, 1, 1, 4], [1, 2, 3, 4] as [Float])
        let embedding = try HostTensor(shape: [batch, 2, 1, 1], [Float](repeating: 0, count: 2 * batch))
        let output = try await guidance(latents: latents, embedding: embedding) { try await calls.unet($0) }
        return (output, calls, guidance)
    }

    func testOneCallOfTwoRowsEqualsTwoCallsOfOne() async throws {
        let (both, callsOfTwo, guidance) = try await guided(batch: 2, scale: 2, unconditional: 1)
        let (each, callsOfOne, guidanceOfOne) = try await guided(batch: 1, scale: 2, unconditional: 1)
        // 1 + 2 · (3 − 1) = 5 times the latents
        XCTAssertEqual(both.floats, [5, 10, 15, 20])
        XCTAssertEqual(each.floats, both.floats)
        let (two, one) = (await callsOfTwo.inputs, await callsOfOne.inputs)
        XCTAssertEqual(two.count, 1)
        XCTAssertEqual(one.count, 2)
        XCTAssertEqual(guidance.calls, 1)
        XCTAssertEqual(guidanceOfOne.calls, 2)
        XCTAssertEqual(two[0]["encoder_hidden_states"]?.floats.first, 1, "the unconditional row comes first")
    }

    func testWithoutGuidanceTheUnconditionalPredictionIsNotMade() async throws {
        let (output, calls, _) = try await guided(batch: 1, scale: 1, unconditional: nil)
        XCTAssertEqual(output.floats, [3, 6, 9, 12])
        let inputs = await calls.inputs
        XCTAssertEqual(inputs.count, 1)
    }

    func testWithoutGuidanceAFixedBatchOfTwoGetsTheConditionalTwice() async throws {
        let (output, calls, _) = try await guided(batch: 2, scale: 1, unconditional: nil)
        XCTAssertEqual(output.floats, [3, 6, 9, 12])
        XCTAssertEqual(output.shape, [1, 1, 1, 4])
        let inputs = await calls.inputs
        XCTAssertEqual(inputs[0]["encoder_hidden_states"]?.floats, [Float](repeating: 3, count: 12))
    }

    /// Rows 1 (neither), 2 (the picture) and 3 (both), the picture behind the latents of the last two.
    private func edited(batch: Int) async throws -> (HostTensor, [[String: HostTensor]], ClassifierFreeGuidance) {
        let calls = Calls()
        func behind(_ value: Float, _ row: ClassifierFreeGuidance.Conditions) throws -> ClassifierFreeGuidance.Conditions {
            row.merging(["latents": try HostTensor(shape: [1, 2, 1, 4], [Float](repeating: value, count: 8))]) { $1 }
        }
        let guidance = try ClassifierFreeGuidance(
            batch: batch, scale: 2, conditional: behind(9, conditions(3)), unconditional: behind(0, conditions(1)),
            pictured: behind(9, conditions(2)), pictureScale: 1.5)
        let latents = try HostTensor(shape: [1, 1, 1, 4], [1, 2, 3, 4] as [Float])
        let embedding = try HostTensor(shape: [batch, 2, 1, 1], [Float](repeating: 0, count: 2 * batch))
        let output = try await guidance(latents: latents, embedding: embedding) { given in
            let output = try await calls.unet(given)
            // As a UNet that reads more channels than it writes.
            let rows = try output.split(into: batch).map { try HostTensor(shape: [1, 1, 1, 4], Array($0.floats[..<4])) }
            return try HostTensor.concatenating(rows)
        }
        return (output, await calls.inputs, guidance)
    }

    func testAnEditIsGuidedByTextAndByPicture() async throws {
        for (batch, calls) in [(1, 3), (2, 2)] {
            let (output, inputs, guidance) = try await edited(batch: batch)
            // 1 + 1.5 · (2 − 1) + 2 · (3 − 2) = 4.5 times the latents
            XCTAssertEqual(output.floats, [4.5, 9, 13.5, 18])
            XCTAssertEqual(output.shape, [1, 1, 1, 4])
            XCTAssertEqual([inputs.count, guidance.calls], [calls, calls])
            let taken = try inputs.flatMap { try XCTUnwrap($0["latents"]).split(into: batch) }
            XCTAssertTrue(taken.allSatisfy { $0.shape == [1, 3, 1, 4] && $0.floats[..<4] == [1, 2, 3, 4] })
            XCTAssertEqual(taken.prefix(3).map { $0.floats[4] }, [0, 9, 9], "what stands behind the latents, by rows")
        }
    }

    func testScaleThatMeansNothingIsRefused() {
        for scale in [-1, .nan, .infinity] {
            XCTAssertThrowsError(try ClassifierFreeGuidance.check(scale: scale)) { XCTAssertTrue($0 is UsageError) }
        }
        XCTAssertNoThrow(try ClassifierFreeGuidance.check(scale: 0))
    }
}
