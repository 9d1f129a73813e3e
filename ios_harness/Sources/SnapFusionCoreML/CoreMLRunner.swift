#if canImport(CoreML)
    import CoreML
    import SnapFusionKit

    /// Runs the components of a bundle with Core ML.
    ///
    /// Predictions are synchronous, on a queue of the runner's own: no array leaves it, and no thread of Swift's
    /// concurrency waits for the Neural Engine. A component's input and output buffers live as long as it is loaded; an
    /// input that is the same tensor as last time, as the hidden states are for every step, isn't converted again.
    /// Loading alone doesn't specialize a model for the device: the first prediction does (`prewarm`).
    public actor CoreMLRunner: ComponentRunner {
        private let queue = DispatchSerialQueue(label: "snapfusion.coreml")
        public nonisolated var unownedExecutor: UnownedSerialExecutor { queue.asUnownedSerialExecutor() }

        private let bundle: ModelBundle
        private let computeUnit: RuntimeRecord.ComputeUnit
        private let models: CompiledModels
        private var loaded: [ComponentName: Loaded] = [:]

        /// A model with its buffers.
        private struct Loaded {
            let model: MLModel
            let record: ComponentRecord
            let inputs: [String: MLMultiArray]
            let options: MLPredictionOptions
            var written: [String: Tensor] = [:]
        }

        /// - Parameter cache: where compiled models are kept; in the caches folder if nil.
        public init(bundle: ModelBundle, computeUnit: RuntimeRecord.ComputeUnit, cache: URL? = nil) {
            self.bundle = bundle
            self.computeUnit = computeUnit
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
            let url = try await models.compiled(name)
            loaded[name] = try open(url, name, record)
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
            let features = try MLDictionaryFeatureProvider(dictionary: component.inputs)
            let start = ContinuousClock.now
            let answer: any MLFeatureProvider
            do {
                answer = try component.model.prediction(from: features, options: component.options)
            } catch {
                throw ComponentError.failed(name, "the prediction failed: \(error.localizedDescription)")
            }
            let seconds = start.secondsSince()
            var outputs: [String: Tensor] = [:]
            for output in component.record.outputs {
                outputs[output.name] = try answer.featureValue(for: output.name)?.multiArrayValue?.tensor()
            }
            return Prediction(outputs: outputs, seconds: seconds)
        }

        public func unload(_ name: ComponentName) { loaded[name] = nil }

        public func memory() -> MemorySample? { MemorySample.footprint() }

        private func open(_ url: URL, _ name: ComponentName, _ record: ComponentRecord) throws -> Loaded {
            let configuration = try MLModelConfiguration(computeUnit, function: record.function)
            let model: MLModel
            do {
                model = try MLModel(contentsOf: url, configuration: configuration)
            } catch {
                throw ComponentError.failed(name, "it can't be loaded: \(error.localizedDescription)")
            }
            let names = (
                Set(model.modelDescription.inputDescriptionsByName.keys),
                Set(model.modelDescription.outputDescriptionsByName.keys)
            )
            guard names == (Set(record.inputs.map(\.name)), Set(record.outputs.map(\.name))) else {
                throw ComponentError.failed(
                    name, "its inputs and outputs aren't those of the manifest; export it again.")
            }
            let options = MLPredictionOptions()
            options.outputBackings = Dictionary(
                uniqueKeysWithValues: try record.outputs.map { ($0.name, try $0.makeBuffer()) })
            let inputs = try record.inputs.map { ($0.name, try $0.makeBuffer()) }
            return Loaded(
                model: model, record: record, inputs: Dictionary(uniqueKeysWithValues: inputs), options: options)
        }
    }

    extension MLModelConfiguration {
        /// Throws `UnavailableError` for one of several functions on a system that knows only one.
        convenience init(_ computeUnit: RuntimeRecord.ComputeUnit, function: String) throws {
            self.init()
            computeUnits =
                switch computeUnit {
                case .all: .all
                case .cpuOnly: .cpuOnly
                case .cpuAndGPU: .cpuAndGPU
                case .cpuAndNeuralEngine: .cpuAndNeuralEngine
                }
            guard function != "main" else { return }
            guard #available(iOS 18, macOS 15, *) else {
                throw UnavailableError("function '\(function)' of a package with several needs iOS 18 or macOS 15.")
            }
            functionName = function
        }
    }
#endif
