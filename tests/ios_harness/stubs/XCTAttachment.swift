// Compiled together with the performance tests: the part of XCTest that only Apple's has.

import Foundation
import XCTest

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

extension XCTestCase {
    public func add(_ attachment: XCTAttachment) { fatalError() }
}
