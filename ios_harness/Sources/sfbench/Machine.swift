import Foundation
import SnapFusionKit

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

extension MachineRecord {
    /// The computer this process runs on.
    static func current() -> MachineRecord {
        let info = ProcessInfo.processInfo
        var names = utsname()
        uname(&names)
        return MachineRecord(
            model: model(), processor: processor() ?? machine(names), architecture: machine(names),
            cores: info.activeProcessorCount, memoryBytes: Int(info.physicalMemory), os: info.operatingSystemVersionString)
    }

    private static func machine(_ names: utsname) -> String {
        withUnsafeBytes(of: names.machine) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }

    #if canImport(Darwin)
        private static func system(_ name: String) -> String? {
            var size = 0
            guard sysctlbyname(name, nil, &size, nil, 0) == 0, size > 1 else { return nil }
            var bytes = [UInt8](repeating: 0, count: size)
            guard sysctlbyname(name, &bytes, &size, nil, 0) == 0 else { return nil }
            return String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
        }

        private static func model() -> String? { system("hw.model") }
        private static func processor() -> String? { system("machdep.cpu.brand_string") }
    #else
        private static func model() -> String? {
            let text = try? String(contentsOfFile: "/sys/class/dmi/id/product_name", encoding: .utf8)
            return text.map { $0.trimmingCharacters(in: .whitespacesAndNewlines) }.flatMap { $0.isEmpty ? nil : $0 }
        }

        private static func processor() -> String? {
            let text = (try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8)) ?? ""
            let line = text.split(separator: "\n").first { $0.hasPrefix("model name") }
            return line?.split(separator: ":", maxSplits: 1).last.map { $0.trimmingCharacters(in: .whitespaces) }
        }
    #endif
}

extension ConditionsRecord {
    /// The computer's state now.
    static func current() -> ConditionsRecord {
        var conditions = ConditionsRecord()
        var loads = [0.0]
        if getloadavg(&loads, 1) == 1 {
            conditions.loadAverageBefore = loads[0]
            conditions.loadAverageAfter = loads[0]
        }
        #if canImport(Darwin)
            conditions.thermalStateBefore = ThermalState(ProcessInfo.processInfo.thermalState)
            conditions.thermalStateAfter = conditions.thermalStateBefore
            conditions.lowPowerMode = ProcessInfo.processInfo.isLowPowerModeEnabled
        #endif
        return conditions
    }
}
