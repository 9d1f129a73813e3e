// What the harness uses of UIKit.

@_exported import Foundation

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

@MainActor
open class UIApplication: NSObject {
    open nonisolated class var didReceiveMemoryWarningNotification: NSNotification.Name { fatalError() }
    open class var shared: UIApplication { fatalError() }
    open var isIdleTimerDisabled: Bool {
        get { fatalError() }
        set { fatalError() }
    }
}

@MainActor
open class UIImage: NSObject {
    public nonisolated init?(data: Data) { fatalError() }
}
