import SnapFusionKit
import XCTest

final class TokenizerTests: XCTestCase {
    private struct Case: Decodable {
        let text: String
        let ids: [Int32]
    }

    private func makeTokenizer(maxLength: Int = 77) throws -> CLIPTokenizer {
        try CLIPTokenizer(
            vocab: GoldenFiles.tokenizer("vocab.json"), merges: GoldenFiles.tokenizer("merges.txt"),
            maxLength: maxLength, bos: 49406, eos: 49407, pad: 49407)
    }

    func testIdsEqualTransformersOnEveryGoldenText() throws {
        let tokenizer = try makeTokenizer()
        let cases = try GoldenFiles.json("tokens.json", as: [Case].self)
        XCTAssertGreaterThanOrEqual(cases.count, 500)
        for golden in cases {
            let padding = [Int32](repeating: 49407, count: 77 - golden.ids.count)
            XCTAssertEqual(tokenizer.encode(golden.text), golden.ids + padding, golden.text.debugDescription)
        }
        print("tokenizer: \(cases.count) texts compared")
    }

    private struct AddedTokens: Decodable {
        let name: String
        let pad: Int
        let added: [String: Int]
        let exact: [String: Int]
        let cases: [Case]
    }

    func testIdsWithAddedTokensEqualDiffusers() throws {
        let tokenizers = try GoldenFiles.json("added-tokens.json", as: [AddedTokens].self)
        XCTAssertEqual(tokenizers.count, 5)
        for golden in tokenizers {
            let tokenizer = try CLIPTokenizer(
                vocab: GoldenFiles.tokenizer("vocab.json"), merges: GoldenFiles.tokenizer("merges.txt"), maxLength: 77,
                bos: 49406, eos: 49407, pad: golden.pad, added: golden.added, exact: golden.exact)
            for one in golden.cases {
                XCTAssertEqual(tokenizer.encode(one.text), one.ids, "\(golden.name): \(one.text.debugDescription)")
            }
        }
    }

    func testAnAddedTokensIdMustFit() throws {
        let vocab = try GoldenFiles.tokenizer("vocab.json")
        let merges = try GoldenFiles.tokenizer("merges.txt")
        for id in [-1, Int(Int32.max) + 1] {
            assertThrows(FileFormatError(file: vocab.path, problem: "the added token '<x>' can't have the id \(id)")) {
                try CLIPTokenizer(
                    vocab: vocab, merges: merges, maxLength: 77, bos: 49406, eos: 49407, pad: 49407, added: ["<x>": id])
            }
        }
    }

    func testLongTextIsCutBeforeItsEnd() throws {
        let ids = try makeTokenizer(maxLength: 5).encode("a b c d e f")
        XCTAssertEqual(ids.count, 5)
        XCTAssertEqual(ids[0], 49406)
        XCTAssertEqual(ids[4], 49407)
        XCTAssertEqual(try makeTokenizer(maxLength: 5).tokenize("a b c d e f").dropped, 3)
        XCTAssertEqual(try makeTokenizer(maxLength: 8).tokenize("a b c d e f").dropped, 0)
    }

    func testPaddingIsTheManifestsAndNotTheEnd() throws {
        let tokenizer = try CLIPTokenizer(
            vocab: GoldenFiles.tokenizer("vocab.json"), merges: GoldenFiles.tokenizer("merges.txt"), maxLength: 6,
            bos: 49406, eos: 49407, pad: 0)
        XCTAssertEqual(tokenizer.encode(""), [49406, 49407, 0, 0, 0, 0])
    }

    func testDamagedFilesAreNamed() throws {
        let folder = try temporaryFolder()
        let vocab = folder.appendingPathComponent("vocab.json")
        let merges = folder.appendingPathComponent("merges.txt")
        func make() throws -> CLIPTokenizer {
            try CLIPTokenizer(vocab: vocab, merges: merges, maxLength: 77, bos: 1, eos: 2, pad: 2)
        }
        assertThrows(FileFormatError(file: vocab.path, problem: "expected a JSON object of tokens and ids"), make)
        try Data(#"{"a": 0, "b": 1}"#.utf8).write(to: vocab)
        assertThrows(FileFormatError(file: merges.path, problem: "expected UTF-8 text"), make)
        try Data("#version: 0.2\na c\n".utf8).write(to: merges)
        assertThrows(
            FileFormatError(file: merges.path, problem: "line 2, 'a c', isn't two tokens of the vocabulary"), make)
    }
}
