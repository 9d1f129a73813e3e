import SnapFusionKit
import XCTest

final class FunctionChoiceTests: XCTestCase {
    func testTheFunctionForAWantedShapeIsSelected() throws {
        let bundle = try bundle()
        let unet = try bundle.component(.unet)
        XCTAssertEqual(unet.functions.map(\.function), ["one"])
        let chosen = try bundle.selecting(guidanceBatch: 1)
        let record = try chosen.component(.unet)
        XCTAssertEqual(record.function, "one")
        XCTAssertEqual(record.defaultFunction, "main")
        XCTAssertEqual(record.functions.map(\.function), ["main"])
        XCTAssertEqual(record.inputs.map(\.shape), [[1, 4, 4, 4]])
        XCTAssertEqual(chosen.manifest.guidance.batch, 1)
        XCTAssertEqual(chosen.manifest.files, bundle.manifest.files)
        XCTAssertEqual(try chosen.selecting(guidanceBatch: 2).manifest, bundle.manifest)
    }

    func testWithoutAWishTheDefaultFunctionRuns() throws {
        let bundle = try bundle()
        XCTAssertEqual(try bundle.selecting().manifest, bundle.manifest)
        XCTAssertEqual(
            try bundle.selecting(latentSize: LatentSize(height: 4, width: 4)).manifest, bundle.manifest)
    }

    func testAShapeThatNoFunctionHasIsRefusedNamingThoseThereAre() throws {
        let bundle = try bundle()
        XCTAssertThrowsError(try bundle.selecting(latentSize: LatentSize(height: 8, width: 4))) {
            XCTAssertTrue("\($0)".contains("4x4 and batch 2, 4x4 and batch 1"), "\($0)")
        }
        let plain = try TestBundle.make(in: temporaryFolder())
        XCTAssertThrowsError(try plain.selecting(guidanceBatch: 1)) { XCTAssertTrue($0 is UsageError) }
    }

    func testALatentSizeIsReadHeightFirst() {
        XCTAssertEqual(LatentSize("48x64"), LatentSize(height: 48, width: 64))
        for text in ["48", "48x", "x48", "0x8", "8x8x8", "axb"] { XCTAssertNil(LatentSize(text), text) }
    }

    private func bundle() throws -> ModelBundle {
        try TestBundle.make(in: temporaryFolder()) {
            $0.replacingOccurrences(
                of: #""files": {"unet.mlpackage/model""#,
                with: """
                    "functions": [{"function": "one",
                      "inputs": [{"name": "latents", "shape": [1, 4, 4, 4], "dtype": "float16"}],
                      "outputs": [{"name": "model_output", "shape": [1, 4, 4, 4], "dtype": "float16"}]}],
                    "files": {"unet.mlpackage/model"
                    """)
        }
    }
}
