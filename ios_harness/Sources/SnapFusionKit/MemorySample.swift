/// Memory of one process at one moment, in bytes: resident set, or on Apple's systems the footprint that its limit applies to.
///
/// What the system's own processes hold for a model (the Neural Engine's daemon) is in no figure that an app can read.
public struct MemorySample: Sendable, Equatable, Codable {
    public var total: Int
    public var anonymous: Int?
    public var fileBacked: Int?
    /// The highest `total` since the process began, which no sampling misses.
    public var processPeak: Int?
    /// What the kernel counts for the Neural Engine on the process' account, most of it outside of `total`.
    public var neural: Int?
    public var neuralPeak: Int?
    /// What may still be allocated before the system ends the process.
    public var limitRemaining: Int?

    public init(
        total: Int, anonymous: Int? = nil, fileBacked: Int? = nil, processPeak: Int? = nil, neural: Int? = nil,
        neuralPeak: Int? = nil, limitRemaining: Int? = nil
    ) {
        self.total = total
        self.anonymous = anonymous
        self.fileBacked = fileBacked
        self.processPeak = processPeak
        self.neural = neural
        self.neuralPeak = neuralPeak
        self.limitRemaining = limitRemaining
    }

    /// The worse of both, figure by figure.
    public func worst(_ other: MemorySample) -> MemorySample {
        func most(_ first: Int?, _ second: Int?) -> Int? { [first, second].compactMap { $0 }.max() }
        return MemorySample(
            total: max(total, other.total), anonymous: most(anonymous, other.anonymous),
            fileBacked: most(fileBacked, other.fileBacked), processPeak: most(processPeak, other.processPeak),
            neural: most(neural, other.neural), neuralPeak: most(neuralPeak, other.neuralPeak),
            limitRemaining: [limitRemaining, other.limitRemaining].compactMap { $0 }.min())
    }
}

/// The kernel's `task_vm_info` (xnu, osfmk/mach/task_info.h), read from its bytes: the structure has grown seven times, and
/// how much of it is filled depends on the system that runs, not on the one it was built for.
public struct TaskVMInfo: Sendable {
    /// Places of the fields in bytes. The structure is packed to 4.
    private enum Field: Int {
        case physFootprint = 144
        case physFootprintPeak = 168
        case neuralFootprint = 304
        case neuralFootprintCompressed = 312
        case neuralNoFootprint = 320
        case neuralNoFootprintCompressed = 328
        case limitBytesRemaining = 336
        case neuralNoFootprintPeak = 364
    }

    /// Room for every field that is known, in the words of 4 bytes that `task_info` counts in.
    public static let words = 93

    private let filled: [UInt8]

    /// - Parameter bytes: what `task_info` filled: 4 bytes for each word that it counted.
    public init(_ bytes: some Sequence<UInt8>) { filled = Array(bytes) }

    /// The figures that this system tells; nil if it doesn't even tell the footprint.
    public var sample: MemorySample? {
        guard let footprint = self[.physFootprint] else { return nil }
        let neural = [
            self[.neuralFootprint], self[.neuralFootprintCompressed], self[.neuralNoFootprint],
            self[.neuralNoFootprintCompressed],
        ]
        // A process without a limit is told a remainder of 0.
        let remaining = self[.limitBytesRemaining].flatMap { $0 > 0 ? $0 : nil }
        return MemorySample(
            total: footprint, processPeak: self[.physFootprintPeak],
            neural: neural.contains(nil) ? nil : neural.compactMap { $0 }.reduce(0, +),
            neuralPeak: self[.neuralNoFootprintPeak], limitRemaining: remaining)
    }

    private subscript(field: Field) -> Int? {
        guard field.rawValue + 8 <= filled.count else { return nil }
        let bits = (0..<8).reduce(UInt64(0)) { $0 | UInt64(filled[field.rawValue + $1]) << UInt64(8 * $1) }
        return Int(exactly: Int64(bitPattern: bits))
    }
}
