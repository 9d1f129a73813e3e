/// The distribution of some durations, in their unit.
public struct LatencySummary: Sendable, Equatable, Codable {
    public let count: Int
    public let median: Double
    public let p95: Double
    public let minimum: Double

    /// Percentiles by linear interpolation, as NumPy's. Throws `UsageError` without any duration.
    public init(_ durations: [Double]) throws {
        let sorted = durations.sorted()
        guard let first = sorted.first else { throw UsageError("no prediction was measured; expected 1 or more.") }
        func percentile(_ share: Double) -> Double {
            let place = share * Double(sorted.count - 1)
            let below = Int(place)
            let above = min(below + 1, sorted.count - 1)
            return sorted[below] + (sorted[above] - sorted[below]) * (place - Double(below))
        }
        count = sorted.count
        median = percentile(0.5)
        p95 = percentile(0.95)
        minimum = first
    }
}
