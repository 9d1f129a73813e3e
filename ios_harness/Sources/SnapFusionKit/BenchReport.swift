import Foundation

/// `bench.json`, the report that `sfmobile bench` writes too (`sfmobile/bench/report.py` is its definition).
/// Durations are milliseconds, sizes bytes. What this side can't fill is null.
public struct BenchReport: Sendable, Equatable {
    public static let schemaVersion = 1

    public var createdAt: Date
    public var producer: ProducerRecord
    public var machine: MachineRecord
    public var conditions: ConditionsRecord
    public var runtime: RuntimeRecord
    public var bundle: BundleReference
    public var components: [ComponentName: ComponentLatency]
    public var loop: LoopLatency?

    public init(
        createdAt: Date = Date(), producer: ProducerRecord = ProducerRecord(), machine: MachineRecord,
        conditions: ConditionsRecord, runtime: RuntimeRecord, bundle: BundleReference,
        components: [ComponentName: ComponentLatency], loop: LoopLatency?
    ) {
        self.createdAt = createdAt
        self.producer = producer
        self.machine = machine
        self.conditions = conditions
        self.runtime = runtime
        self.bundle = bundle
        self.components = components
        self.loop = loop
    }

    /// The report as it is written: every field is there, those without a value as null.
    public var json: JSONValue {
        let seconds = createdAt.timeIntervalSince1970.rounded(.down)
        return .object([
            .init("kind", .string("bench")),
            .init("schema_version", .integer(BenchReport.schemaVersion)),
            .init("created_at", .string(Date(timeIntervalSince1970: seconds).formatted(.iso8601))),
            .init("producer", producer.json),
            .init("machine", machine.json),
            .init("conditions", conditions.json),
            .init("runtime", runtime.json),
            .init("bundle", bundle.json),
            .init(
                "components",
                .object(
                    ComponentName.allCases.compactMap { name in
                        components[name].map { .init(name.rawValue, $0.json) }
                    })),
            .init("loop", loop?.json ?? .null),
        ])
    }
}

/// What wrote the report, and the versions that matter to its figures.
public struct ProducerRecord: Sendable, Equatable {
    public var version: String
    public var tools: [String: String]

    public init(version: String = "0.1.0", tools: [String: String] = [:]) {
        self.version = version
        self.tools = tools
    }

    var json: JSONValue {
        .object([
            .init("name", .string("ios_harness")),
            .init("version", .string(version)),
            .init("tools", .object(tools.sorted { $0.key < $1.key }.map { .init($0.key, .string($0.value)) })),
        ])
    }
}

/// What the figures were measured on, e.g. model "iPhone15,2", os "iOS 18.1".
public struct MachineRecord: Sendable, Equatable {
    public var model: String?
    public var processor: String
    public var architecture: String
    public var cores: Int
    public var memoryBytes: Int
    public var os: String

    public init(model: String?, processor: String, architecture: String, cores: Int, memoryBytes: Int, os: String) {
        self.model = model
        self.processor = processor
        self.architecture = architecture
        self.cores = cores
        self.memoryBytes = memoryBytes
        self.os = os
    }

    var json: JSONValue {
        .object([
            .init("model", JSONValue(model)),
            .init("processor", .string(processor)),
            .init("architecture", .string(architecture)),
            .init("cores", .integer(cores)),
            .init("memory_bytes", .integer(memoryBytes)),
            .init("os", .string(os)),
        ])
    }
}

/// What else was going on: a throttled device or one short of memory is recorded, not hidden.
public struct ConditionsRecord: Sendable, Equatable {
    public enum ThermalState: String, Sendable, CaseIterable {
        case nominal, fair, serious, critical
    }

    public var loadAverageBefore: Double?
    public var loadAverageAfter: Double?
    public var thermalStateBefore: ThermalState?
    public var thermalStateAfter: ThermalState?
    public var lowPowerMode: Bool?
    public var batteryLevel: Double?
    public var batteryCharging: Bool?
    /// How often the system warned of too little memory while it was measured.
    public var memoryWarnings: Int?

    public init() {}

    var json: JSONValue {
        .object([
            .init("load_average_before", JSONValue(loadAverageBefore)),
            .init("load_average_after", JSONValue(loadAverageAfter)),
            .init("thermal_state_before", JSONValue(thermalStateBefore?.rawValue)),
            .init("thermal_state_after", JSONValue(thermalStateAfter?.rawValue)),
            .init("low_power_mode", JSONValue(lowPowerMode)),
            .init("battery_level", JSONValue(batteryLevel)),
            .init("battery_charging", JSONValue(batteryCharging)),
            .init("memory_warnings", JSONValue(memoryWarnings)),
        ])
    }
}

/// What executed the components.
public struct RuntimeRecord: Sendable, Equatable {
    public enum Engine: String, Sendable, CaseIterable {
        case coreml, mil, torch, onnx
    }
    public enum Precision: String, Sendable, CaseIterable {
        case fp32, fp16
    }
    public enum ComputeUnit: String, Sendable, CaseIterable {
        case all = "ALL"
        case cpuOnly = "CPU_ONLY"
        case cpuAndGPU = "CPU_AND_GPU"
        case cpuAndNeuralEngine = "CPU_AND_NE"
    }

    public var engine: Engine
    public var description: String
    public var precision: Precision?
    public var computeUnit: ComputeUnit?

    public init(engine: Engine, description: String, precision: Precision? = nil, computeUnit: ComputeUnit? = nil) {
        self.engine = engine
        self.description = description
        self.precision = precision
        self.computeUnit = computeUnit
    }

    var json: JSONValue {
        .object([
            .init("engine", .string(engine.rawValue)),
            .init("description", .string(description)),
            .init("precision", JSONValue(precision?.rawValue)),
            .init("compute_unit", JSONValue(computeUnit?.rawValue)),
            .init("threads", .null),
        ])
    }
}

/// Which bundle was measured.
public struct BundleReference: Sendable, Equatable {
    public var name: String
    public var manifestSHA256: String
    public var sourceID: String
    public var sourceSHA256: String
    public var target: Manifest.Target

    public init(_ bundle: ModelBundle) {
        name = bundle.manifest.name
        manifestSHA256 = bundle.manifestSHA256
        sourceID = bundle.manifest.source.id
        sourceSHA256 = bundle.manifest.source.sha256
        target = bundle.manifest.target
    }

    var json: JSONValue {
        .object([
            .init("name", .string(name)),
            .init("manifest_sha256", .string(manifestSHA256)),
            .init("source_id", .string(sourceID)),
            .init("source_sha256", .string(sourceSHA256)),
            .init("target", .string(target.rawValue)),
        ])
    }
}

/// Memory of the measuring process, sampled while it worked.
public struct MemoryRecord: Sendable, Equatable {
    public var before: Int
    public var peak: MemorySample

    public init(before: Int, peak: MemorySample) {
        self.before = before
        self.peak = peak
    }

    var json: JSONValue {
        .object([
            .init("before_bytes", .integer(before)),
            .init("peak_bytes", .integer(peak.total)),
            .init("peak_anonymous_bytes", JSONValue(peak.anonymous)),
            .init("peak_file_backed_bytes", JSONValue(peak.fileBacked)),
        ])
    }
}

/// Operations by the compute unit Core ML prefers for them, and the share of the estimated cost.
public struct PlacementRecord: Sendable, Equatable {
    public var operations = 0
    public var neuralEngine = 0
    public var gpu = 0
    public var cpu = 0
    public var unknown = 0
    public var neuralEngineCost: Double?
    public var gpuCost: Double?
    public var cpuCost: Double?
    /// Operator name to how many are preferred elsewhere than on the Neural Engine.
    public var offNeuralEngine: [String: Int] = [:]

    public init() {}

    /// Share of operations on the Neural Engine, 0 to 1; nil if there are none.
    public var neuralEngineShare: Double? { operations == 0 ? nil : Double(neuralEngine) / Double(operations) }

    var json: JSONValue {
        .object([
            .init("operations", .integer(operations)),
            .init("neural_engine", .integer(neuralEngine)),
            .init("gpu", .integer(gpu)),
            .init("cpu", .integer(cpu)),
            .init("unknown", .integer(unknown)),
            .init("neural_engine_cost", JSONValue(neuralEngineCost)),
            .init("gpu_cost", JSONValue(gpuCost)),
            .init("cpu_cost", JSONValue(cpuCost)),
            .init(
                "off_neural_engine",
                .object(offNeuralEngine.sorted { $0.key < $1.key }.map { .init($0.key, .integer($0.value)) })),
        ])
    }
}

/// One component, measured alone.
public struct ComponentLatency: Sendable, Equatable {
    public var coldLoad: Double
    public var warmLoad: Double
    public var firstPrediction: Double
    public var predictions: LatencySummary
    public var memory: MemoryRecord?
    public var packageBytes: Int
    public var parameters: Int
    public var placement: PlacementRecord?

    var json: JSONValue {
        .object([
            .init("cold_load_ms", .number(coldLoad)),
            .init("warm_load_ms", .number(warmLoad)),
            .init("first_prediction_ms", .number(firstPrediction)),
            .init("predictions", .integer(predictions.count)),
            .init("median_ms", .number(predictions.median)),
            .init("p95_ms", .number(predictions.p95)),
            .init("minimum_ms", .number(predictions.minimum)),
            .init("memory", memory?.json ?? .null),
            .init("package_bytes", .integer(packageBytes)),
            .init("parameters", .integer(parameters)),
            .init("placement", placement?.json ?? .null),
        ])
    }
}

/// Text to picture, once, components loaded and warmed up.
public struct LoopLatency: Sendable, Equatable {
    public var steps: Int
    public var guidanceScale: Double
    public var unetCalls: Int
    public var textEncoder: Double
    public var stepDurations: [Double]
    public var decoder: Double
    public var endToEnd: Double
    public var memory: MemoryRecord?

    var json: JSONValue {
        .object([
            .init("steps", .integer(steps)),
            .init("guidance_scale", .number(guidanceScale)),
            .init("unet_calls", .integer(unetCalls)),
            .init("text_encoder_ms", .number(textEncoder)),
            .init("steps_ms", .array(stepDurations.map(JSONValue.number))),
            .init("decoder_ms", .number(decoder)),
            .init("end_to_end_ms", .number(endToEnd)),
            .init("memory", memory?.json ?? .null),
        ])
    }
}

/// The distribution of some durations, in their unit.
public struct LatencySummary: Sendable, Equatable {
    public let count: Int
    public let median: Double
    public let p95: Double
    public let minimum: Double

    /// Percentiles by linear interpolation, as NumPy's. Throws `UsageError` without any duration.
    public init(_ durations: [Double]) throws {
        let sorted = durations.sorted()
        guard let first = sorted.first else { throw UsageError("no prediction was measured; expected 1 or more.") }
        func percentile(_ share: Double) -> Double {
            let place = share * Double(sorted.count - 1)
            let below = Int(place)
            let above = min(below + 1, sorted.count - 1)
            return sorted[below] + (sorted[above] - sorted[below]) * (place - Double(below))
        }
        count = sorted.count
        median = percentile(0.5)
        p95 = percentile(0.95)
        minimum = first
    }
}
