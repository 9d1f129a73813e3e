#if canImport(CoreML)
    import Darwin
    import Foundation
    import SnapFusionKit

    #if canImport(UIKit)
        import UIKit
    #endif

    extension MachineRecord {
        /// The device this process runs on.
        public static func current() -> MachineRecord {
            var names = utsname()
            uname(&names)
            let machine = withUnsafeBytes(of: names.machine) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
            let info = ProcessInfo.processInfo
            let version = info.operatingSystemVersion
            #if os(iOS)
                let (system, model) = ("iOS", machine)
            #else
                let (system, model) = ("macOS", text(ofSystem: "hw.model"))
            #endif
            return MachineRecord(
                model: model, processor: text(ofSystem: "machdep.cpu.brand_string") ?? machine, architecture: "arm64",
                cores: info.activeProcessorCount, memoryBytes: Int(info.physicalMemory),
                os: "\(system) \(version.majorVersion).\(version.minorVersion).\(version.patchVersion)")
        }

        private static func text(ofSystem name: String) -> String? {
            var size = 0
            guard sysctlbyname(name, nil, &size, nil, 0) == 0, size > 1 else { return nil }
            var bytes = [UInt8](repeating: 0, count: size)
            guard sysctlbyname(name, &bytes, &size, nil, 0) == 0 else { return nil }
            return String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
        }
    }

    extension MemorySample {
        /// What the kernel counts for this process: the footprint that its limit applies to, its peak, the Neural Engine's.
        static func ofThisProcess() -> MemorySample? {
            var words = [natural_t](repeating: 0, count: TaskVMInfo.words)
            var count = mach_msg_type_number_t(words.count)
            let result = words.withUnsafeMutableBufferPointer { buffer in
                // There is a first element: the array isn't empty.
                buffer.withMemoryRebound(to: integer_t.self) {
                    task_info(task_self_trap(), task_flavor_t(TASK_VM_INFO), $0.baseAddress, &count)
                }
            }
            guard result == KERN_SUCCESS else { return nil }
            return words.withUnsafeBytes { TaskVMInfo($0.prefix(4 * Int(count))).sample }
        }
    }

    extension MachineRecord {
        /// Whether this app was built with the entitlement for a higher memory limit: the project writes the name of the
        /// entitlements file into the Info.plist, since a process can't ask for its own.
        public static var hasIncreasedMemoryEntitlement: Bool {
            let file = Bundle.main.object(forInfoDictionaryKey: "SFBenchEntitlements") as? String
            return file?.contains("IncreasedMemory") ?? false
        }
    }

    extension ConditionsRecord.ThermalState {
        public init(_ state: ProcessInfo.ThermalState) {
            switch state {
            case .nominal: self = .nominal
            case .fair: self = .fair
            case .serious: self = .serious
            default: self = .critical
            }
        }
    }

    /// Watches the state of the device: heat, power, and the system's warnings of too little memory.
    public actor DeviceMonitor {
        private var warnings = 0
        private var observer: (any NSObjectProtocol)?

        public init() {}

        /// Begins to count memory warnings; Macs have none.
        public func start() {
            #if canImport(UIKit)
                guard observer == nil else { return }
                observer = NotificationCenter.default.addObserver(
                    forName: UIApplication.didReceiveMemoryWarningNotification, object: nil, queue: nil
                ) { [weak self] _ in
                    Task { [weak self] in await self?.countWarning() }
                }
            #endif
        }

        private func countWarning() { warnings += 1 }

        /// The state now; the same value stands for before and after.
        public func conditions() async -> ConditionsRecord {
            var conditions = ConditionsRecord()
            conditions.thermalStateAfter = .init(ProcessInfo.processInfo.thermalState)
            conditions.thermalStateBefore = conditions.thermalStateAfter
            conditions.lowPowerMode = ProcessInfo.processInfo.isLowPowerModeEnabled
            #if canImport(UIKit)
                conditions.increasedMemoryEntitlement = MachineRecord.hasIncreasedMemoryEntitlement
                conditions.memoryWarnings = warnings
                (conditions.batteryLevel, conditions.batteryCharging) = await battery()
            #endif
            return conditions
        }

        #if canImport(UIKit)
            @MainActor
            private func battery() -> (level: Double?, charging: Bool?) {
                let device = UIDevice.current
                device.isBatteryMonitoringEnabled = true
                // -1 and .unknown: the simulator has no battery.
                guard device.batteryLevel >= 0 else { return (nil, nil) }
                return (Double(device.batteryLevel), device.batteryState != .unplugged)
            }
        #endif
    }
#endif
