// What the harness uses of the unified logging system.

// Source: developer.apple.com/documentation/os/oslog
public final class OSLog: @unchecked Sendable {
    // Source: developer.apple.com/documentation/os/oslog/category
    public struct Category: Sendable {
        public static let pointsOfInterest = Category()
    }
}

// Source: developer.apple.com/documentation/os/ossignpostid
public struct OSSignpostID: Sendable {}

// Source: developer.apple.com/documentation/os/ossignpostintervalstate
public final class OSSignpostIntervalState: @unchecked Sendable {}

// Source: developer.apple.com/documentation/os/signpostmetadata
public struct SignpostMetadata: ExpressibleByStringInterpolation, Sendable {
    public init(stringLiteral value: String) { fatalError() }
}

// Source: developer.apple.com/documentation/os/ossignposter
public struct OSSignposter: Sendable {
    public init(subsystem: String, category: OSLog.Category) { fatalError() }
    public func makeSignpostID() -> OSSignpostID { fatalError() }
    public func beginInterval(
        _ name: StaticString, id: OSSignpostID, _ message: SignpostMetadata
    ) -> OSSignpostIntervalState { fatalError() }
    public func endInterval(_ name: StaticString, _ state: OSSignpostIntervalState) { fatalError() }
}
