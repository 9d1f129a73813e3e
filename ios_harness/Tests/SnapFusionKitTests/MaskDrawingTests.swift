import SnapFusionKit
import XCTest

final class MaskDrawingTests: XCTestCase {
    private func rows(_ drawing: MaskDrawing, _ width: Int, _ height: Int) -> [String] {
        let mask = drawing.raster(width: width, height: height)
        return (0..<height).map { row in mask[row * width..<(row + 1) * width].map { $0 ? "#" : "." }.joined() }
    }

    func testATapIsARoundDot() {
        var drawing = MaskDrawing()
        drawing.touch(.init(0.5, 0.5), radius: 0.25)
        XCTAssertEqual(
            rows(drawing, 8, 8),
            ["........", "........", "...##...", "..####..", "..####..", "...##...", "........", "........"])
        // The same place and the same share of the shorter side in a picture of other proportions.
        XCTAssertEqual(rows(drawing, 8, 4), ["........", "...##...", "...##...", "........"])
    }

    func testAStrokeCoversWhatLiesBetweenItsPoints() {
        var drawing = MaskDrawing()
        drawing.touch(.init(0, 50, in: 100, 100), radius: 0.125)
        drawing.touch(.init(100, 50, in: 100, 100), radius: 0.125)
        drawing.lift()
        XCTAssertEqual(drawing.strokes.count, 1)
        XCTAssertEqual(rows(drawing, 4, 4), ["....", "####", "####", "...."])
        // Back and forth it is one stroke; behind a lift another one, which takes away.
        drawing.touch(.init(1, 0.5), radius: 0.2, erases: true)
        XCTAssertEqual(drawing.strokes.count, 2)
        XCTAssertEqual(rows(drawing, 4, 4), ["....", "###.", "###.", "...."])
        drawing.undo()
        XCTAssertEqual(rows(drawing, 4, 4), ["....", "####", "####", "...."])
        drawing.clear()
        XCTAssertTrue(drawing.isEmpty)
        XCTAssertEqual(rows(drawing, 2, 1), [".."])
    }

    func testPlacesOutsideStandAtTheEdge() {
        XCTAssertEqual(MaskDrawing.Point(-5, 300, in: 100, 200), MaskDrawing.Point(0, 1))
        XCTAssertEqual(MaskDrawing.Point(5, 5, in: 0, 0), MaskDrawing.Point(0, 0))
        var drawing = MaskDrawing()
        drawing.touch(.init(-1, -1), radius: 10)
        XCTAssertTrue(drawing.raster(width: 3, height: 2).allSatisfy { $0 })
    }
}
