#if canImport(CoreML)
    import CoreML
    import SnapFusionKit

    /// Runs the components of a bundle with Core ML.
    ///
    /// Predictions are synchronous, on a queue of the runner's own: no array leaves it, and no thread of Swift's
    /// concurrency waits for the Neural Engine. A component's input and output buffers live as long as it is loaded, in
    /// memory that the Neural Engine shares where the type is fp16; an input that is the same tensor as last time, as the
    /// hidden states are for every step, isn't converted again. What one chunk of a component gives is the array that the
    /// next one takes.
    ///
    /// Core ML specializes a model for the device in its first load, which can take many times as long as later ones.
    /// ``SnapFusionKit/TextToImage/prewarm()`` has it over before somebody waits.
    public actor CoreMLRunner: ComponentRunner {
        private let queue = DispatchSerialQueue(label: "snapfusion.coreml", qos: .userInitiated)
        public nonisolated var unownedExecutor: UnownedSerialExecutor { queue.asUnownedSerialExecutor() }

        private let bundle: ModelBundle
        private let computeUnit: RuntimeRecord.ComputeUnit
        private let chunks: ChunkResidency
        private let sharesMemory: Bool
        private let models: CompiledModels
        private var loaded: [ComponentName: Loaded] = [:]
        private var answers: [ComponentName: BufferRecord] = [:]

        /// The models of a component, with the buffers of its inputs.
        private struct Loaded {
            let models: ChunkSequence<CoreMLChunk>
            let record: ComponentRecord
            let inputs: [String: ModelBuffer]
            var written: [String: HostTensor] = [:]
        }

        /// - Parameters:
        ///   - chunks: how many chunks of a component are in memory; with one at a time, a prediction's time holds loading.
        ///   - sharesMemory: whether fp16 arrays lie in memory that the Neural Engine and the GPU use without a copy.
        ///   - cache: where compiled models are kept; in the caches folder if nil.
        public init(
            bundle: ModelBundle, computeUnit: RuntimeRecord.ComputeUnit, chunks: ChunkResidency = .all,
            sharesMemory: Bool = true, cache: URL? = nil
        ) {
            self.bundle = bundle
            self.computeUnit = computeUnit
            self.chunks = chunks
            self.sharesMemory = sharesMemory
            models = CompiledModels(bundle: bundle, folder: cache)
        }

        public func describe() -> RuntimeRecord {
            RuntimeRecord(engine: .coreml, description: "coreml \(computeUnit.rawValue)", computeUnit: computeUnit)
        }

        @discardableResult
        public func load(_ name: ComponentName) async throws -> LoadTiming {
            if loaded[name] != nil { return .alreadyLoaded }
            var found = try await models.compiled(name)
            do {
                return try open(name, found)
            } catch where found.kind == .compiledBefore {
                // A compiled copy may be broken, or of a system that is no more: made again once.
                try models.forget(name)
                found = try await models.compiled(name)
                return try open(name, found)
            }
        }

        public func forget(_ name: ComponentName) async throws {
            loaded[name] = nil
            try models.forget(name)
        }

        public func predict(_ name: ComponentName, inputs: [String: HostTensor]) throws -> ComponentPrediction {
            guard var component = loaded[name] else { throw ComponentError.notLoaded(name) }
            try component.record.check(inputs: inputs, of: name)
            for (key, tensor) in inputs where component.written[key] !== tensor {
                try component.inputs[key]?.array.write(tensor)
                component.written[key] = tensor
            }
            loaded[name] = component
            let start = ContinuousClock.now
            let answer = try Signposts.interval("predict", name.rawValue) {
                try component.models.run(component.inputs)
            }
            let seconds = start.secondsSince()
            answers[name] = record(of: component, answer)
            return ComponentPrediction(outputs: try answer.mapValues { try $0.array.tensor() }, seconds: seconds)
        }

        public func unload(_ name: ComponentName) {
            loaded[name] = nil
            answers[name] = nil
        }

        public func unloadAll() {
            for name in loaded.keys { unload(name) }
        }

        public nonisolated func memory() -> MemorySample? { MemorySample.ofThisProcess() }

        public func buffers(of name: ComponentName) -> BufferRecord? { answers[name] }

        private func open(_ name: ComponentName, _ found: CompiledModels.Found) throws -> LoadTiming {
            let record = try bundle.component(name)
            let start = ContinuousClock.now
            loaded[name] = try Signposts.interval("load", name.rawValue) { try open(found.urls, name, record) }
            return LoadTiming(compile: found.seconds, load: start.secondsSince(), kind: found.kind)
        }

        private func open(_ urls: [URL], _ name: ComponentName, _ record: ComponentRecord) throws -> Loaded {
            let configuration = try MLModelConfiguration(computeUnit, record: record)
            let places = Dictionary(zip(record.parts.map(\.package), urls)) { first, _ in first }
            let models = try ChunkSequence(name, record: record, residency: chunks) { [sharesMemory] part in
                guard let url = places[part.package] else { throw ComponentError.notLoaded(name) }
                return try CoreMLChunk(url, name, part, configuration, sharesMemory: sharesMemory)
            }
            let inputs = try record.inputs.map { ($0.name, try ModelBuffer($0, shared: sharesMemory)) }
            return Loaded(models: models, record: record, inputs: Dictionary(uniqueKeysWithValues: inputs))
        }

        private func record(of component: Loaded, _ answer: [String: ModelBuffer]) -> BufferRecord {
            var record = BufferRecord()
            record.inputs = component.inputs.count
            record.sharedInputs = component.inputs.values.count(where: \.isShared)
            record.outputs = answer.count
            record.sharedOutputs = answer.values.count(where: \.isShared)
            record.backedOutputs = answer.values.count(where: \.isBacking)
            return record
        }
    }

    /// One package of a component, with the buffers that it writes its outputs into.
    private struct CoreMLChunk: LoadedChunk {
        private let model: MLModel
        private let name: ComponentName
        private let part: ChunkRecord
        private let options = MLPredictionOptions()
        private let backings: [String: ModelBuffer]

        init(
            _ url: URL, _ name: ComponentName, _ part: ChunkRecord, _ configuration: MLModelConfiguration,
            sharesMemory: Bool
        ) throws {
            self.name = name
            self.part = part
            do {
                model = try MLModel(contentsOf: url, configuration: configuration)
            } catch {
                throw ComponentError.failed(name, "'\(part.package)' can't be loaded: \(error.localizedDescription)")
            }
            let names = (
                Set(model.modelDescription.inputDescriptionsByName.keys),
                Set(model.modelDescription.outputDescriptionsByName.keys)
            )
            guard names == (Set(part.inputs.map(\.name)), Set(part.outputs.map(\.name))) else {
                throw ComponentError.failed(
                    name, "the inputs and outputs of '\(part.package)' aren't those of the manifest; export it again.")
            }
            let buffers = try part.outputs.map { ($0.name, try ModelBuffer($0, shared: sharesMemory)) }
            backings = Dictionary(uniqueKeysWithValues: buffers)
            options.outputBackings = backings.mapValues(\.array)
        }

        func predict(_ inputs: [String: ModelBuffer]) throws -> [String: ModelBuffer] {
            let features = try MLDictionaryFeatureProvider(dictionary: inputs.mapValues(\.array))
            let answer: any MLFeatureProvider
            do {
                answer = try model.prediction(from: features, options: options)
            } catch {
                throw ComponentError.failed(
                    name, "the prediction of '\(part.package)' failed: \(error.localizedDescription)")
            }
            // Core ML may answer with an array of its own instead of the buffer, without a word.
            var outputs: [String: ModelBuffer] = [:]
            for tensor in part.outputs {
                guard let array = answer.featureValue(for: tensor.name)?.multiArrayValue else { continue }
                outputs[tensor.name] =
                    backings[tensor.name].flatMap { $0.array === array ? $0.asBacking : nil } ?? ModelBuffer(array)
            }
            return outputs
        }
    }

    extension MLModelConfiguration {
        /// Throws `UnavailableError` for another function than the default one on a system that runs only that.
        convenience init(_ computeUnit: RuntimeRecord.ComputeUnit, record: ComponentRecord) throws {
            self.init()
            computeUnits =
                switch computeUnit {
                case .all: .all
                case .cpuOnly: .cpuOnly
                case .cpuAndGPU: .cpuAndGPU
                case .cpuAndNeuralEngine: .cpuAndNeuralEngine
                }
            // Only a package of several functions takes a function's name.
            if record.functions.isEmpty && record.function == "main" { return }
            if #available(iOS 18, macOS 15, *) {
                functionName = record.function
            } else if record.function != record.defaultFunction {
                throw UnavailableError(
                    "function '\(record.function)' of '\(record.package)' needs iOS 18 or macOS 15; this system runs "
                        + "the default one, '\(record.defaultFunction)'.")
            }
        }
    }
#endif
