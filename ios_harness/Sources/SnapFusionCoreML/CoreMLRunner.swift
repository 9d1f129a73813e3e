#if canImport(CoreML)
    import CoreML
    import SnapFusionKit

    /// Runs the components of a bundle with Core ML.
    ///
    /// Predictions are synchronous, on a queue of the runner's own: no array leaves it, and no thread of Swift's
    /// concurrency waits for the Neural Engine. A component's input and output buffers live as long as it is loaded; an
    /// input that is the same tensor as last time, as the hidden states are for every step, isn't converted again. What
    /// one chunk of a component gives is the array that the next one takes.
    /// Loading alone doesn't specialize a model for the device: the first prediction does (`prewarm`).
    public actor CoreMLRunner: ComponentRunner {
        private let queue = DispatchSerialQueue(label: "snapfusion.coreml")
        public nonisolated var unownedExecutor: UnownedSerialExecutor { queue.asUnownedSerialExecutor() }

        private let bundle: ModelBundle
        private let computeUnit: RuntimeRecord.ComputeUnit
        private let chunks: ChunkResidency
        private let models: CompiledModels
        private var loaded: [ComponentName: Loaded] = [:]

        /// The models of a component, with the buffers of its inputs.
        private struct Loaded {
            let models: ChunkSequence<CoreMLChunk>
            let record: ComponentRecord
            let inputs: [String: MLMultiArray]
            var written: [String: Tensor] = [:]
        }

        /// - Parameters:
        ///   - chunks: how many chunks of a component are in memory; with one at a time, a prediction's time holds loading.
        ///   - cache: where compiled models are kept; in the caches folder if nil.
        public init(
            bundle: ModelBundle, computeUnit: RuntimeRecord.ComputeUnit, chunks: ChunkResidency = .all,
            cache: URL? = nil
        ) {
            self.bundle = bundle
            self.computeUnit = computeUnit
            self.chunks = chunks
            models = CompiledModels(bundle: bundle, folder: cache ?? CompiledModels.defaultFolder)
        }

        public func describe() -> RuntimeRecord {
            RuntimeRecord(engine: .coreml, description: "coreml \(computeUnit.rawValue)", computeUnit: computeUnit)
        }

        @discardableResult
        public func load(_ name: ComponentName) async throws -> Double {
            if loaded[name] != nil { return 0 }
            let record = try bundle.component(name)
            let start = ContinuousClock.now
            let urls = try await models.compiled(name)
            loaded[name] = try open(urls, name, record)
            return start.secondsSince()
        }

        public func forget(_ name: ComponentName) async throws {
            loaded[name] = nil
            try models.forget(name)
        }

        public func predict(_ name: ComponentName, inputs: [String: Tensor]) throws -> Prediction {
            guard var component = loaded[name] else { throw ComponentError.notLoaded(name) }
            try component.record.check(inputs: inputs, of: name)
            for (key, tensor) in inputs where component.written[key] !== tensor {
                try component.inputs[key]?.write(tensor)
                component.written[key] = tensor
            }
            loaded[name] = component
            let start = ContinuousClock.now
            let answer = try component.models.run(component.inputs)
            let seconds = start.secondsSince()
            return Prediction(outputs: try answer.mapValues { try $0.tensor() }, seconds: seconds)
        }

        public func unload(_ name: ComponentName) { loaded[name] = nil }

        public func memory() -> MemorySample? { MemorySample.footprint() }

        private func open(_ urls: [URL], _ name: ComponentName, _ record: ComponentRecord) throws -> Loaded {
            let configuration = try MLModelConfiguration(computeUnit, record: record)
            let places = Dictionary(zip(record.parts.map(\.package), urls)) { first, _ in first }
            let models = try ChunkSequence(name, record: record, residency: chunks) { part in
                guard let url = places[part.package] else { throw ComponentError.notLoaded(name) }
                return try CoreMLChunk(url, name, part, configuration)
            }
            let inputs = try record.inputs.map { ($0.name, try $0.makeBuffer()) }
            return Loaded(models: models, record: record, inputs: Dictionary(uniqueKeysWithValues: inputs))
        }
    }

    /// One package of a component, with the buffers that it writes its outputs into.
    private struct CoreMLChunk: LoadedChunk {
        private let model: MLModel
        private let name: ComponentName
        private let part: ChunkRecord
        private let options = MLPredictionOptions()

        init(_ url: URL, _ name: ComponentName, _ part: ChunkRecord, _ configuration: MLModelConfiguration) throws {
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
            let buffers = try part.outputs.map { ($0.name, try $0.makeBuffer()) }
            options.outputBackings = Dictionary(uniqueKeysWithValues: buffers)
        }

        func predict(_ inputs: [String: MLMultiArray]) throws -> [String: MLMultiArray] {
            let features = try MLDictionaryFeatureProvider(dictionary: inputs)
            let answer: any MLFeatureProvider
            do {
                answer = try model.prediction(from: features, options: options)
            } catch {
                throw ComponentError.failed(
                    name, "the prediction of '\(part.package)' failed: \(error.localizedDescription)")
            }
            // Core ML may answer with an array of its own instead of the buffer.
            var outputs: [String: MLMultiArray] = [:]
            for tensor in part.outputs {
                outputs[tensor.name] = answer.featureValue(for: tensor.name)?.multiArrayValue
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
