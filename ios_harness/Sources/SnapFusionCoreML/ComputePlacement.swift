#if canImport(CoreML)
    import CoreML
    import SnapFusionKit

    /// Where Core ML means to run each operation, from `MLComputePlan`.
    public enum ComputePlacement {
        /// The plan of one component; nil on systems before iOS 17.4 and macOS 14.4, which have none. Costs are shares of
        /// a package's: those of chunks count alike.
        public static func record(
            of name: ComponentName, in bundle: ModelBundle, computeUnit: RuntimeRecord.ComputeUnit, cache: URL? = nil
        ) async throws -> PlacementRecord? {
            guard #available(iOS 17.4, macOS 14.4, *) else { return nil }
            let models = CompiledModels(bundle: bundle, folder: cache)
            let record = try bundle.component(name)
            let urls = try await models.compiled(name).urls
            var tally = Tally(share: 1 / Double(urls.count))
            for url in urls {
                let configuration = try MLModelConfiguration(computeUnit, record: record)
                let plan: MLComputePlan
                do {
                    plan = try await MLComputePlan.load(contentsOf: url, configuration: configuration)
                } catch {
                    throw ComponentError.failed(
                        name,
                        "the compute plan of '\(url.lastPathComponent)' can't be made: \(error.localizedDescription)")
                }
                tally.add(plan.modelStructure, function: record.function, plan: plan)
            }
            return tally.record
        }

        @available(iOS 17.4, macOS 14.4, *)
        private struct Tally {
            private(set) var record = PlacementRecord()
            private let share: Double

            /// - Parameter share: of the whole cost, the part that each package has.
            init(share: Double) { self.share = share }

            /// A pipeline is one package of several programs.
            mutating func add(_ structure: MLModelStructure, function: String, plan: MLComputePlan) {
                if case .pipeline(let pipeline) = structure {
                    for model in pipeline.subModels { add(model, function: function, plan: plan) }
                } else if case .program(let program) = structure {
                    let block = (program.functions[function] ?? program.functions["main"])?.block
                    if let block { add(block, plan: plan) }
                }
            }

            private mutating func add(_ block: MLModelStructure.Program.Block, plan: MLComputePlan) {
                for operation in block.operations {
                    // Constants are not executed: the plan has nothing to say of them.
                    if operation.operatorName.hasSuffix("const") || operation.operatorName.contains("constexpr") {
                        continue
                    }
                    for nested in operation.blocks { add(nested, plan: plan) }
                    record.operations += 1
                    let cost = share * (plan.estimatedCost(of: operation)?.weight ?? 0)
                    guard let device = plan.deviceUsage(for: operation)?.preferred else {
                        record.unknown += 1
                        continue
                    }
                    if case .neuralEngine = device {
                        record.neuralEngine += 1
                        record.neuralEngineCost = (record.neuralEngineCost ?? 0) + cost
                        continue
                    }
                    record.offNeuralEngine[operation.operatorName, default: 0] += 1
                    if case .gpu = device {
                        record.gpu += 1
                        record.gpuCost = (record.gpuCost ?? 0) + cost
                    } else {
                        record.cpu += 1
                        record.cpuCost = (record.cpuCost ?? 0) + cost
                    }
                }
            }
        }
    }
#endif
