// What the harness uses of UIKit. The source of a type is that of its members.

@_exported import CoreGraphics
@_exported import Foundation

// Source: developer.apple.com/documentation/uikit/uidevice
@MainActor
open class UIDevice: NSObject {
    public enum BatteryState: Int, Sendable {
        case unknown, unplugged, charging, full
    }
    open class var current: UIDevice { fatalError() }
    open var isBatteryMonitoringEnabled: Bool {
        get { fatalError() }
        set { fatalError() }
    }
    open var batteryLevel: Float { fatalError() }
    open var batteryState: BatteryState { fatalError() }
}

// Source: developer.apple.com/documentation/uikit/uiapplication
@MainActor
open class UIApplication: NSObject {
    open nonisolated class var didReceiveMemoryWarningNotification: NSNotification.Name { fatalError() }
    open class var shared: UIApplication { fatalError() }
    open var isIdleTimerDisabled: Bool {
        get { fatalError() }
        set { fatalError() }
    }
}

// Source: developer.apple.com/documentation/uikit/uiimage
open class UIImage: NSObject, @unchecked Sendable {
    public init?(data: Data) { fatalError() }
    public init?(contentsOfFile path: String) { fatalError() }
    public init(cgImage: CGImage) { fatalError() }
}
