/// Waits for a device to be cool before something is measured: one that throttles gives another device's figures.
public struct CoolDown: Sendable {
    /// Seconds to wait at most, for each measurement.
    public var limit: Double
    /// Seconds between two looks.
    public var interval: Double
    private let state: @Sendable () async -> ConditionsRecord.ThermalState?
    private let sleep: @Sendable (_ seconds: Double) async throws -> Void

    /// - Parameter state: the device's thermal state now; nil where there is none, which never waits.
    public init(
        limit: Double = 300, interval: Double = 5,
        state: @escaping @Sendable () async -> ConditionsRecord.ThermalState?,
        sleep: @escaping @Sendable (Double) async throws -> Void = { try await Task.sleep(for: .seconds($0)) }
    ) {
        self.limit = limit
        self.interval = interval
        self.state = state
        self.sleep = sleep
    }

    /// Seconds waited until the state was nominal, or until the limit: whoever gates on a figure looks at the states it
    /// was measured in.
    public func wait() async throws -> Double {
        var waited = 0.0
        while let state = await state(), state != .nominal, waited < limit {
            try await sleep(interval)
            waited += interval
        }
        return waited
    }
}
