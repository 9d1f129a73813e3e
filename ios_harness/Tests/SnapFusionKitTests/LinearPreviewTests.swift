import XCTest

@testable import SnapFusionKit

final class LinearPreviewTests: XCTestCase {
    func testAnAffineDecoderIsRecovered() throws {
        let record = LatentsRecord(channels: 4, height: 8, width: 8, pixelsPerLatent: 2, scalingFactor: 1)
        let fitting = try LinearPreview.Fitting(record)
        let weight: [[Float]] = [[0.1, -0.05, 0], [0.05, 0.1, 0.02], [0, 0, 0.1], [-0.1, 0.03, 0.01]]
        let bias: [Float] = [0.1, -0.2, 0.05]
        func colour(_ latents: [Float], _ position: Int, _ channel: Int) -> Float {
            (0..<4).reduce(bias[channel]) { $0 + weight[$1][channel] * latents[$1 * 64 + position] }
        }
        var image: [Float] = []
        for channel in 0..<3 {
            for row in 0..<16 {
                for column in 0..<16 { image.append(colour(fitting.latents.floats, row / 2 * 8 + column / 2, channel)) }
            }
        }
        let preview = try fitting.solve(image: HostTensor(shape: [1, 3, 16, 16], image))
        for (row, expected) in zip(preview.weight, weight + [bias]) {
            for (found, value) in zip(row, expected) { XCTAssertEqual(found, Double(value), accuracy: 1e-5) }
        }
        XCTAssertThrowsError(
            try fitting.solve(image: HostTensor(shape: [1, 3, 4, 4], [Float](repeating: 0, count: 48)))
        ) {
            XCTAssertTrue($0 is UsageError)
        }
    }
}
