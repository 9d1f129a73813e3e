import SnapFusionKit
import XCTest

final class JSONValueTests: XCTestCase {
    func testWhatIsWrittenIsReadBack() throws {
        let value = OrderedJSON.object([
            .init("a", .array([.integer(-7), .number(0.1), .bool(true), .null, .array([]), .object([])])),
            .init("b", .string("quote \" back \\ tab \t line \n nul \u{0} é 👩‍🚀")),
            .init("c", .object([.init("d", .number(1e300))])),
        ])
        XCTAssertEqual(try OrderedJSON(parsing: Data(value.serialized().utf8)), value)
    }

    func testNumbersThatJSONLacksBecomeNull() {
        XCTAssertEqual(OrderedJSON.array([.number(.infinity), .number(.nan)]).serialized(), "[\n  null,\n  null\n]\n")
    }

    func testBooleansAndNumbersStayApart() throws {
        let values = try OrderedJSON(parsing: Data("[true, 1, 1.5, 0, false]".utf8))
        XCTAssertEqual(values, .array([.bool(true), .integer(1), .number(1.5), .integer(0), .bool(false)]))
    }

    func testEscapesAndTheLastOfTwoKeys() throws {
        let text = #"{"a": 1, "\u0061": "\ud83d\ude80\n\/\b", "n": -0.5e+2, "big": 18446744073709551616}"#
        let parsed = try OrderedJSON(parsing: Data(text.utf8))
        XCTAssertEqual(parsed["a"], .string("🚀\n/\u{8}"))
        XCTAssertEqual(parsed["n"], .number(-50))
        XCTAssertEqual(parsed["big"], .number(0x1p64))
    }

    func testWhatIsNotJSONIsRefused() {
        let deep = String(repeating: "[", count: 100_000)
        for text in [
            "", " ", "{", "[1,]", "{\"a\": 1,}", "[,1]", "NaN", "{\"a\": Infinity}", "{'a': 1}", "[1] 2", "01", "1.",
            ".5",
            "-", "+1", "1e", "0x10", "tru", "\"open", "\"tab\t\"", "\"\\x\"", "\"\\ud800\"", "\"\\u12\"", "{\"a\" 1}",
            "{1: 2}", "// no", "1e999", "\u{feff}1", deep,
        ] {
            XCTAssertThrowsError(try OrderedJSON(parsing: Data(text.utf8)), text) {
                XCTAssertTrue($0 is OrderedJSON.SyntaxError)
            }
        }
        XCTAssertThrowsError(try OrderedJSON(parsing: Data([0x22, 0xff, 0x22])))
    }
}
