import Foundation
import SnapFusionCoreML
import SnapFusionKit

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

#if !canImport(CoreML)
    extension MachineRecord {
        /// The computer this process runs on.
        static func current() -> MachineRecord {
            let info = ProcessInfo.processInfo
            var names = utsname()
            uname(&names)
            let machine = withUnsafeBytes(of: names.machine) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
            return MachineRecord(
                model: firstLine(of: "/sys/class/dmi/id/product_name"), processor: processor() ?? machine,
                architecture: machine, cores: info.activeProcessorCount, memoryBytes: Int(info.physicalMemory),
                os: info.operatingSystemVersionString)
        }

        private static func firstLine(of path: String) -> String? {
            let text = try? String(contentsOfFile: path, encoding: .utf8)
            return text?.split(separator: "\n").first.map(String.init)
        }

        private static func processor() -> String? {
            let text = (try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8)) ?? ""
            let line = text.split(separator: "\n").first { $0.hasPrefix("model name") }
            return line?.split(separator: ":", maxSplits: 1).last.map { $0.trimmingCharacters(in: .whitespaces) }
        }
    }
#endif

/// The computer's state now; the same values stand for before and after.
func currentConditions() async -> ConditionsRecord {
    #if canImport(CoreML)
        var conditions = await DeviceMonitor().conditions()
    #else
        var conditions = ConditionsRecord()
    #endif
    var loads = [0.0]
    if getloadavg(&loads, 1) == 1 {
        conditions.loadAverageBefore = loads[0]
        conditions.loadAverageAfter = loads[0]
    }
    return conditions
}
