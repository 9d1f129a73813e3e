#if canImport(CoreML)
    import CoreML
    import SnapFusionKit

    extension LatencyRecorder.Device {
        /// This device, as Core ML sees it.
        ///
        /// - Parameter coolDown: seconds to wait before each piece until the device is cool, at most.
        public static func core(
            bundle: ModelBundle, computeUnit: RuntimeRecord.ComputeUnit, monitor: DeviceMonitor,
            coolDown limit: Double = 0
        ) -> LatencyRecorder.Device {
            let control: @Sendable () throws -> any ComponentRunner = {
                CoreMLRunner(bundle: bundle, computeUnit: .cpuOnly)
            }
            return LatencyRecorder.Device(
                conditions: { await monitor.conditions() },
                placement: { try await ComputePlacement.record(of: $0, in: bundle, computeUnit: computeUnit) },
                makeControl: computeUnit == .cpuOnly ? nil : control,
                coolDown: limit > 0
                    ? CoolDown(limit: limit, state: { .init(ProcessInfo.processInfo.thermalState) }) : nil)
        }
    }
#endif
