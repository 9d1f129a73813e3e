// Compiled together with the performance tests: the part of XCTest that only Apple's has.

import Foundation
import XCTest

// Source: developer.apple.com/documentation/xctest/xctattachment
open class XCTAttachment: NSObject {
    public enum Lifetime: Int, Sendable {
        case keepAlways, deleteOnSuccess
    }
    public convenience init(data payload: Data, uniformTypeIdentifier identifier: String) { fatalError() }
    open var name: String? {
        get { fatalError() }
        set { fatalError() }
    }
    open var lifetime: Lifetime {
        get { fatalError() }
        set { fatalError() }
    }
}

// Source: developer.apple.com/documentation/xctest/xctactivity/add(_:)
extension XCTestCase {
    public func add(_ attachment: XCTAttachment) { fatalError() }
    // Source: developer.apple.com/documentation/xctest/xctestcase/executiontimeallowance
    public var executionTimeAllowance: TimeInterval {
        get { fatalError() }
        set { fatalError() }
    }
}
