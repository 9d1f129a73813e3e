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
        /// This process' footprint: what the system's limit, and its memory kills, go by.
        static func footprint() -> MemorySample? {
            var info = task_vm_info_data_t()
            var count = mach_msg_type_number_t(MemoryLayout<task_vm_info_data_t>.size / MemoryLayout<natural_t>.size)
            let result = withUnsafeMutablePointer(to: &info) {
                $0.withMemoryRebound(to: integer_t.self, capacity: Int(count)) {
                    task_info(task_self_trap(), task_flavor_t(TASK_VM_INFO), $0, &count)
                }
            }
            return result == KERN_SUCCESS ? MemorySample(total: Int(info.phys_footprint)) : nil
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
