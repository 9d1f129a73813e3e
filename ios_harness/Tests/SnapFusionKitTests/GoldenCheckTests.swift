import SnapFusionKit
import XCTest

final class GoldenCheckTests: XCTestCase {
    func testPSNRIsTheReferencesPeakOverTheError() {
        // Peak 4, root mean square error 0.5: 20 log10(8) dB.
        XCTAssertEqual(GoldenCheck.psnr([4, 0, 2, 1], [4.5, 0.5, 1.5, 0.5]), 18.0618, accuracy: 1e-4)
        XCTAssertEqual(GoldenCheck.psnr([1, 2], [1, 2]), .infinity)
        XCTAssertTrue(GoldenCheck.psnr([1, 2], [1, .nan]).isNaN)
        XCTAssertTrue(GoldenCheck.psnr([1, 2], [1]).isNaN)
    }

    func testWhatDoesNotPassIsNamed() throws {
        let check = try GoldenCheck(bundle: ModelBundle(opening: GoldenFiles.sampleBundle()))
        var result = GoldenCheck.Result()
        result.components = [.unet: 34.9, .decoder: 35, .textEncoder: .nan]
        result.noiseIsIdentical = true
        let failures = try check.failures(result, on: .mil)
        XCTAssertEqual(failures.count, 3)
        XCTAssertTrue(failures[0].hasPrefix("text_encoder: "), failures[0])
        XCTAssertEqual(failures[1], "unet: 34.9 dB, 35 expected")
        XCTAssertEqual(failures[2], "token ids differ from the reference's")
        result.components = [.unet: .infinity]
        result.tokensAreIdentical = true
        XCTAssertEqual(try check.failures(result, on: .mil), [])
    }

    func testADeviceHasAGateOfItsOwn() throws {
        let bundle = try ModelBundle(opening: GoldenFiles.sampleBundle())
        let check = try GoldenCheck(bundle: bundle)
        for name in bundle.manifest.componentNames {
            XCTAssertEqual(try check.gate(name, on: .coreml), 35)
            let compressed = bundle.manifest.components[name]?.compression != nil
            XCTAssertEqual(try check.gate(name, on: .mil), compressed ? 35 : 60)
        }
    }

    func testABundleWithoutGoldenVectorsSaysSo() throws {
        let bundle = try TestBundle.make(in: temporaryFolder())
        XCTAssertThrowsError(try GoldenCheck(bundle: bundle)) {
            XCTAssertEqual(($0 as? BundleError)?.reason, .missingFile)
        }
    }
}
