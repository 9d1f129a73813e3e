#if canImport(CoreML)
    import os

    /// Intervals that Instruments shows beside those of Core ML and the Neural Engine, in the points of interest.
    enum Signposts {
        static let signposter = OSSignposter(subsystem: "dev.sfmobile.SnapFusion", category: .pointsOfInterest)

        static func interval<Value>(_ name: StaticString, _ detail: String = "", _ work: () throws -> Value) rethrows
            -> Value
        {
            let state = signposter.beginInterval(name, id: signposter.makeSignpostID(), "\(detail)")
            defer { signposter.endInterval(name, state) }
            return try work()
        }

        static func interval<Value: Sendable>(
            _ name: StaticString, _ detail: String = "", _ work: () async throws -> Value
        ) async rethrows -> Value {
            let state = signposter.beginInterval(name, id: signposter.makeSignpostID(), "\(detail)")
            defer { signposter.endInterval(name, state) }
            return try await work()
        }
    }
#endif
