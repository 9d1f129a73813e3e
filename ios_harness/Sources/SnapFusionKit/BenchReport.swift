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
    /// What the process ended in the midst of, in earlier attempts at this report; it isn't measured again.
    public var crashed: [String]

    public init(
        createdAt: Date = Date(), producer: ProducerRecord = ProducerRecord(), machine: MachineRecord,
        conditions: ConditionsRecord, runtime: RuntimeRecord, bundle: BundleReference,
        components: [ComponentName: ComponentLatency], loop: LoopLatency?, crashed: [String] = []
    ) {
        self.createdAt = createdAt
        self.producer = producer
        self.machine = machine
        self.conditions = conditions
        self.runtime = runtime
        self.bundle = bundle
        self.components = components
        self.loop = loop
        self.crashed = crashed
    }

    /// The report as it is written: every field is there, those without a value as null.
    public var json: OrderedJSON {
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
                    components.keys.sorted().compactMap { name in
                        components[name].map { .init(name.rawValue, $0.json) }
                    })),
            .init("loop", loop?.json ?? .null),
            .init("crashed", .array(crashed.map { .string($0) })),
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

    var json: OrderedJSON {
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

    var json: OrderedJSON {
        .object([
            .init("model", OrderedJSON(model)),
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
    public enum ThermalState: String, Sendable, Codable, CaseIterable {
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
    /// Whether the app was built with the entitlement for a higher memory limit.
    public var increasedMemoryEntitlement: Bool?
    /// Seconds spent waiting for the device to cool before something was measured.
    public var waitedForNominal: Double?

    public init() {}

    var json: OrderedJSON {
        .object([
            .init("load_average_before", OrderedJSON(loadAverageBefore)),
            .init("load_average_after", OrderedJSON(loadAverageAfter)),
            .init("thermal_state_before", OrderedJSON(thermalStateBefore?.rawValue)),
            .init("thermal_state_after", OrderedJSON(thermalStateAfter?.rawValue)),
            .init("low_power_mode", OrderedJSON(lowPowerMode)),
            .init("battery_level", OrderedJSON(batteryLevel)),
            .init("battery_charging", OrderedJSON(batteryCharging)),
            .init("memory_warnings", OrderedJSON(memoryWarnings)),
            .init("increased_memory_entitlement", OrderedJSON(increasedMemoryEntitlement)),
            .init("waited_for_nominal_s", OrderedJSON(waitedForNominal)),
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

    var json: OrderedJSON {
        .object([
            .init("engine", .string(engine.rawValue)),
            .init("description", .string(description)),
            .init("precision", OrderedJSON(precision?.rawValue)),
            .init("compute_unit", OrderedJSON(computeUnit?.rawValue)),
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
    public var target: BundleManifest.Target

    public init(_ bundle: ModelBundle) {
        name = bundle.manifest.name
        manifestSHA256 = bundle.manifestSHA256
        sourceID = bundle.manifest.source.id
        sourceSHA256 = bundle.manifest.source.sha256
        target = bundle.manifest.target
    }

    var json: OrderedJSON {
        .object([
            .init("name", .string(name)),
            .init("manifest_sha256", .string(manifestSHA256)),
            .init("source_id", .string(sourceID)),
            .init("source_sha256", .string(sourceSHA256)),
            .init("target", .string(target.rawValue)),
        ])
    }
}

/// Memory of the measuring process alone, sampled while it worked.
public struct MemoryRecord: Sendable, Equatable, Codable {
    public var before: Int
    public var peak: MemorySample

    public init(before: Int, peak: MemorySample) {
        self.before = before
        self.peak = peak
    }

    var json: OrderedJSON {
        .object([
            .init("before_bytes", .integer(before)),
            .init("peak_bytes", .integer(peak.total)),
            .init("peak_anonymous_bytes", OrderedJSON(peak.anonymous)),
            .init("peak_file_backed_bytes", OrderedJSON(peak.fileBacked)),
            .init("scope", .string("process")),
            .init("process_peak_bytes", OrderedJSON(peak.processPeak)),
            .init("neural_bytes", OrderedJSON(peak.neural)),
            .init("neural_peak_bytes", OrderedJSON(peak.neuralPeak)),
            .init("limit_remaining_bytes", OrderedJSON(peak.limitRemaining)),
        ])
    }
}

/// Operations by the compute unit Core ML prefers for them, and the share of the estimated cost.
public struct PlacementRecord: Sendable, Equatable, Codable {
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

    /// Share of the estimated cost on the Neural Engine, 0 to 1; nil if the plan gives no cost at all.
    public var neuralEngineCostShare: Double? {
        let costs = [neuralEngineCost, gpuCost, cpuCost].compactMap { $0 }
        let whole = costs.reduce(0, +)
        return whole > 0 ? (neuralEngineCost ?? 0) / whole : nil
    }

    var json: OrderedJSON {
        .object([
            .init("operations", .integer(operations)),
            .init("neural_engine", .integer(neuralEngine)),
            .init("gpu", .integer(gpu)),
            .init("cpu", .integer(cpu)),
            .init("unknown", .integer(unknown)),
            .init("neural_engine_cost", OrderedJSON(neuralEngineCost)),
            .init("gpu_cost", OrderedJSON(gpuCost)),
            .init("cpu_cost", OrderedJSON(cpuCost)),
            .init(
                "off_neural_engine",
                .object(offNeuralEngine.sorted { $0.key < $1.key }.map { .init($0.key, .integer($0.value)) })),
        ])
    }
}

extension BufferRecord {
    var json: OrderedJSON {
        .object([
            .init("inputs", .integer(inputs)),
            .init("shared_inputs", .integer(sharedInputs)),
            .init("outputs", .integer(outputs)),
            .init("shared_outputs", .integer(sharedOutputs)),
            .init("backed_outputs", .integer(backedOutputs)),
        ])
    }
}

/// One component, measured alone. `coldLoad` is all that the first load took: compiling, and loading what was compiled.
public struct ComponentLatency: Sendable, Equatable, Codable {
    public var coldLoad: Double
    public var compile: Double?
    public var firstLoad: Double?
    public var firstLoadKind: LoadTiming.Kind?
    public var warmLoad: Double
    public var firstPrediction: Double
    public var predictions: LatencySummary
    public var memory: MemoryRecord?
    public var packageBytes: Int
    public var parameters: Int
    public var placement: PlacementRecord?
    public var thermalStateBefore: ConditionsRecord.ThermalState?
    public var thermalStateAfter: ConditionsRecord.ThermalState?
    public var buffers: BufferRecord?
    /// Median of the same predictions on the CPU alone: a figure close to it says that the others ran there too.
    public var cpuOnlyMedian: Double?

    var json: OrderedJSON {
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
            .init("compile_ms", OrderedJSON(compile)),
            .init("first_load_ms", OrderedJSON(firstLoad)),
            .init("first_load_kind", OrderedJSON(firstLoadKind?.rawValue)),
            .init("thermal_state_before", OrderedJSON(thermalStateBefore?.rawValue)),
            .init("thermal_state_after", OrderedJSON(thermalStateAfter?.rawValue)),
            .init("buffers", buffers?.json ?? .null),
            .init("cpu_only_median_ms", OrderedJSON(cpuOnlyMedian)),
        ])
    }
}

/// Text to picture, once, components loaded and warmed up.
public struct LoopLatency: Sendable, Equatable, Codable {
    public var steps: Int
    public var guidanceScale: Double
    /// Its name; older reports don't say.
    public var sampler: String?
    public var unetCalls: Int
    public var textEncoder: Double
    public var stepDurations: [Double]
    public var decoder: Double
    public var endToEnd: Double
    public var memory: MemoryRecord?
    public var thermalStateBefore: ConditionsRecord.ThermalState?
    public var thermalStateAfter: ConditionsRecord.ThermalState?

    /// Median of the steps: all calls of the UNet that one step makes, and the arithmetic between them.
    public var stepMedian: Double? { (try? LatencySummary(stepDurations))?.median }

    var json: OrderedJSON {
        .object([
            .init("steps", .integer(steps)),
            .init("guidance_scale", .number(guidanceScale)),
            .init("sampler", OrderedJSON(sampler)),
            .init("unet_calls", .integer(unetCalls)),
            .init("text_encoder_ms", .number(textEncoder)),
            .init("steps_ms", .array(stepDurations.map(OrderedJSON.number))),
            .init("decoder_ms", .number(decoder)),
            .init("end_to_end_ms", .number(endToEnd)),
            .init("memory", memory?.json ?? .null),
            .init("thermal_state_before", OrderedJSON(thermalStateBefore?.rawValue)),
            .init("thermal_state_after", OrderedJSON(thermalStateAfter?.rawValue)),
        ])
    }
}

extension RuntimeRecord.ComputeUnit {
    /// From a setting; nil if there is none. Throws `UsageError` for a name that is none: measuring other units than were
    /// asked for would be worse than nothing.
    public init?(setting: String?) throws {
        guard let setting, !setting.isEmpty else { return nil }
        guard let unit = RuntimeRecord.ComputeUnit(rawValue: setting) else {
            let all = RuntimeRecord.ComputeUnit.allCases.map(\.rawValue).joined(separator: ", ")
            throw UsageError("'\(setting)' are no compute units; expected one of \(all).")
        }
        self = unit
    }
}
