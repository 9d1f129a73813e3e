@testable import SnapFusionKit
import XCTest

final class PromptTests: XCTestCase {
    private struct Golden: Decodable {
        struct Chunk: Decodable {
            let ids: [Int32]
            let weights: [Double]
        }
        struct One: Decodable {
            let syntax: String
            let text: String
            let chunks: [Chunk]
        }
        struct Weighed: Decodable {
            let states: [[Float]]
            let weights: [Float]
            let weighed: [[Float]]
        }
        let prompts: [One]
        let emphasis: [Weighed]
    }

    private func makeTokenizer() throws -> CLIPTokenizer {
        try CLIPTokenizer(
            vocab: GoldenFiles.tokenizer("vocab.json"), merges: GoldenFiles.tokenizer("merges.txt"), maxLength: 77,
            bos: 49406, eos: 49407, pad: 49407)
    }

    private func columns(_ rows: [[Float]]) -> [Float] { rows[0].indices.flatMap { column in rows.map { $0[column] } } }

    func testTokensAndWeightsAreThoseOfTheWebUI() throws {
        let tokenizer = try makeTokenizer()
        let golden = try GoldenFiles.json("prompts.json", as: Golden.self)
        XCTAssertGreaterThanOrEqual(golden.prompts.count, 25)
        for one in golden.prompts {
            let syntax = try XCTUnwrap(Prompt.Syntax(rawValue: one.syntax))
            let found = try Prompt(one.text, syntax, tokenizer: tokenizer, places: max(2, one.chunks.count))
            XCTAssertEqual(found.dropped, 0)
            let chunks = found.chunks.dropLast(found.empty)
            XCTAssertEqual(chunks.map(\.ids), one.chunks.map(\.ids), one.text)
            XCTAssertEqual(chunks.map(\.weights), one.chunks.map { $0.weights.map(Float.init) }, one.text)
        }
    }

    func testWeighedStatesAreThoseOfTheWebUI() throws {
        for one in try GoldenFiles.json("prompts.json", as: Golden.self).emphasis {
            let states = try HostTensor(shape: [1, one.states[0].count, 1, one.states.count], columns(one.states))
            let found = try Prompt.weigh(states, one.weights)
            let expected = columns(one.weighed)
            let largest = expected.map(abs).max() ?? 0
            XCTAssertLessThanOrEqual(maxDifference(found.floats, expected), 3e-6 * largest)
        }
    }

    func testChunksStandSideBySideAndAreRepeated() throws {
        let first = try HostTensor(shape: [1, 2, 1, 2], [1, 2, 3, 4] as [Float])
        let second = try HostTensor(shape: [1, 2, 1, 2], [5, 6, 7, 8] as [Float])
        let joined = try Prompt.beside([first, second], places: 4)
        XCTAssertEqual(joined.shape, [1, 2, 1, 8])
        XCTAssertEqual(joined.floats, [1, 2, 5, 6, 1, 2, 5, 6, 3, 4, 7, 8, 3, 4, 7, 8])
        XCTAssertEqual(try Prompt.beside([first], places: 1).floats, first.floats)
    }

    func testAPromptIsFilledUpWhereItDoesNotDivideThePlaces() throws {
        let tokenizer = try makeTokenizer()
        let long = String(repeating: "word ", count: 100)
        let filled = try Prompt(long, .plain, tokenizer: tokenizer, places: 3)
        XCTAssertEqual([filled.chunks.count, filled.empty, filled.dropped], [3, 1, 0])
        XCTAssertEqual(
            filled.notes(of: "prompt"), ["The prompt takes 2 chunks of the 3 that the UNet reads; empty ones fill it up."])
        XCTAssertEqual(try Prompt(long, .plain, tokenizer: tokenizer).dropped, 25)
    }

    func testWhatTheSyntaxHasAndTheHarnessDoesNotIsRefusedByName() throws {
        let tokenizer = try makeTokenizer()
        let cases = [
            ("a [cat:dog:0.5]", "'[cat:dog:0.5]' changes the prompt from step to step"),
            ("a [(old:1.2) cat: 3]", "changes the prompt from step to step"),
            ("a [cat|dog]", "changes the prompt from step to step"),
            ("a cat AND a dog", "AND in 'a cat AND a dog' puts several pictures together"),
            ("a cat <lora:fur:0.8>", "'<lora:fur:0.8>' changes a model's weights"),
            ("(a cat BREAK a dog:1.2)", "BREAK inside brackets"),
            ("(a cat:1.2.3)", "the weight '1.2.3'"),
            ("(a cat:.)", "is no number"),
            ("(a:\(String(repeating: "9", count: 400)))", "is no number"),
        ]
        for (prompt, words) in cases {
            XCTAssertThrowsError(try Prompt(prompt, .a1111, tokenizer: tokenizer), prompt) { error in
                XCTAssertTrue("\(error)".contains(words), "\(error)")
            }
            XCTAssertEqual(
                try Prompt(prompt, .plain, tokenizer: tokenizer).ids, tokenizer.encode(prompt), "plain takes anything")
        }
    }
}
