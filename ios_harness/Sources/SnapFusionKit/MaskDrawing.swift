/// A mask painted by finger: strokes over a picture, and the pixels that they cover.
///
/// Places are shares of the picture's width and height, from its upper left corner, so that a stroke is the same however
/// large the picture is shown.
public struct MaskDrawing: Sendable, Equatable {
    public struct Point: Sendable, Equatable {
        public let x: Double
        public let y: Double

        /// A place in a view of that size; beyond its edge, at its edge.
        public init(_ x: Double, _ y: Double, in width: Double = 1, _ height: Double = 1) {
            self.x = width > 0 ? min(max(x / width, 0), 1) : 0
            self.y = height > 0 ? min(max(y / height, 0), 1) : 0
        }
    }

    /// A round brush along points. `radius` is a share of the picture's shorter side.
    public struct Stroke: Sendable, Equatable {
        public private(set) var points: [Point]
        public let radius: Double
        /// Whether it takes away what earlier strokes cover.
        public let erases: Bool

        fileprivate mutating func extend(to point: Point) { points.append(point) }
    }

    public private(set) var strokes: [Stroke] = []
    private var isDown = false

    public init() {}

    /// Whether nothing was painted.
    public var isEmpty: Bool { strokes.isEmpty }

    /// The finger is at `point`: a stroke begins there, or goes on.
    public mutating func touch(_ point: Point, radius: Double, erases: Bool = false) {
        if isDown, !strokes.isEmpty {
            strokes[strokes.count - 1].extend(to: point)
        } else {
            strokes.append(Stroke(points: [point], radius: radius, erases: erases))
            isDown = true
        }
    }

    /// The finger is lifted: what comes next is another stroke.
    public mutating func lift() { isDown = false }

    /// Takes the last stroke back.
    public mutating func undo() {
        lift()
        _ = strokes.popLast()
    }

    public mutating func clear() { self = MaskDrawing() }

    /// Row by row, whether a pixel's centre lies under the brush.
    public func raster(width: Int, height: Int) -> [Bool] {
        var mask = [Bool](repeating: false, count: width * height)
        for stroke in strokes {
            let radius = stroke.radius * Double(min(width, height))
            let points = stroke.points.map { (x: $0.x * Double(width), y: $0.y * Double(height)) }
            for (from, to) in zip(points, points.dropFirst() + points.suffix(1)) {
                let columns = MaskDrawing.span(from.x, to.x, radius, width)
                for row in MaskDrawing.span(from.y, to.y, radius, height) {
                    for column in columns {
                        let centre = (x: Double(column) + 0.5, y: Double(row) + 0.5)
                        if MaskDrawing.distance(centre, from, to) <= radius { mask[row * width + column] = !stroke.erases }
                    }
                }
            }
        }
        return mask
    }

    /// The pixels that a brush between two places may touch.
    private static func span(_ one: Double, _ other: Double, _ radius: Double, _ count: Int) -> Range<Int> {
        let first = max(0, Int((min(one, other) - radius).rounded(.down)))
        let end = min(count, Int((max(one, other) + radius).rounded(.up)))
        return first..<max(first, end)
    }

    private typealias Place = (x: Double, y: Double)

    /// From a place to the line between two others.
    private static func distance(_ place: Place, _ from: Place, _ to: Place) -> Double {
        let (dx, dy) = (to.x - from.x, to.y - from.y)
        let length = dx * dx + dy * dy
        let share = length == 0 ? 0 : ((place.x - from.x) * dx + (place.y - from.y) * dy) / length
        let along = min(max(share, 0), 1)
        let (x, y) = (place.x - from.x - along * dx, place.y - from.y - along * dy)
        return (x * x + y * y).squareRoot()
    }
}
