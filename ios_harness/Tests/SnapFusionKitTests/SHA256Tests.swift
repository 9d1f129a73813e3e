import SnapFusionKit
import XCTest

final class SHA256Tests: XCTestCase {
    private func portable(_ bytes: [UInt8], pieces: Int) -> String {
        var hash = PortableSHA256()
        for start in stride(from: 0, to: bytes.count, by: pieces) {
            bytes[start..<min(start + pieces, bytes.count)].withUnsafeBytes { hash.update($0) }
        }
        return hash.finalize().map { String(format: "%02x", $0) }.joined()
    }

    func testVectorsOfTheStandard() {
        let vectors = [
            "": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "abc": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq":
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
            String(repeating: "a", count: 100_000): "6d1cf22d7cc09b085dfc25ee1a1f3ae0265804c607bc2074ad253bcc82fd81ee",
        ]
        for (text, digest) in vectors {
            XCTAssertEqual(portable(Array(text.utf8), pieces: 1000), digest)
            var hash = SHA256Digest()
            hash.update(Data(text.utf8))
            XCTAssertEqual(hash.hexadecimal(), digest)
        }
    }

    func testPiecesMakeNoDifference() {
        let bytes = (0..<300).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        for pieces in [1, 7, 55, 56, 63, 64, 65, 127, 128, 300] {
            XCTAssertEqual(portable(bytes, pieces: pieces), portable(bytes, pieces: 299), "\(pieces)")
        }
    }
}
