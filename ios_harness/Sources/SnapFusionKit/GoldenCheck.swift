import Foundation

/// Holds an engine to the golden vectors of a bundle: one fixed run of the PyTorch reference in float32.
public struct GoldenCheck: Sendable {
    /// How close everything came.
    public struct Result: Sendable, Equatable {
        /// PSNR of each component fed with the reference's own inputs, in dB; infinite where identical.
        public var components: [ComponentName: Double] = [:]
        /// Whether the token ids and the noise of every golden sample are the reference's, bit for bit.
        public var tokensAreIdentical = false
        public var noiseIsIdentical = false
        /// Largest absolute difference of the latents behind each step of the whole run.
        public var latentDifferences: [Float] = []
        /// PSNR of the run's final image against the reference's.
        public var image = 0.0

        public init() {}
    }

    public let bundle: ModelBundle
    private let record: GoldenRecord

    /// Throws `BundleError` if the bundle has no golden vectors.
    public init(bundle: ModelBundle) throws {
        guard let record = bundle.manifest.golden else {
            throw BundleError(
                .missingFile, "'\(bundle.root.path)' has no golden vectors; export it with its checkpoint at hand.")
        }
        self.bundle = bundle
        self.record = record
    }

    /// What a device has to reach, whatever the weights: Apple's own floor for Core ML's pictures. Its Neural Engine
    /// rounds where and how it likes, so that the 60 dB of an interpreter in fp16 may be missed without a fault.
    public static let deviceGate = 35.0

    /// The least PSNR of a component that passes: 35 dB if its weights are palettized, else 60, as in `sfmobile verify`;
    /// on Core ML `deviceGate`.
    public func gate(_ name: ComponentName, on engine: RuntimeRecord.Engine) throws -> Double {
        if engine == .coreml { return GoldenCheck.deviceGate }
        return try bundle.component(name).compression == nil ? 60 : 35
    }

    /// What of `result` doesn't pass, in words; empty if everything does.
    public func failures(_ result: Result, on engine: RuntimeRecord.Engine) throws -> [String] {
        var failures: [String] = []
        for (name, found) in result.components.sorted(by: { $0.key.rawValue < $1.key.rawValue }) {
            let least = try gate(name, on: engine)
            if !(found >= least) {
                failures.append(String(format: "%@: %.1f dB, %.0f expected", name.rawValue, found, least))
            }
        }
        if !result.tokensAreIdentical { failures.append("token ids differ from the reference's") }
        if !result.noiseIsIdentical { failures.append("noise differs from the reference's") }
        return failures
    }

    /// Runs every component on its golden input, and the whole run.
    public func run(on runner: any ComponentRunner) async throws -> Result {
        var result = Result()
        let pipeline = try TextToImage(bundle: bundle, runner: runner)
        result.tokensAreIdentical = try tokensAreIdentical(pipeline.tokenizer)
        result.noiseIsIdentical = try noiseIsIdentical()
        for name in bundle.manifest.componentNames {
            try await runner.load(name)
            result.components[name] = try await compare(name, on: runner)
        }
        let expected = try vector("run.latents")
        guard let size = expected.shape.first.map({ expected.count / max($0, 1) }), size > 0 else {
            throw FileFormatError(file: "golden/run.latents.npy", problem: "it is empty")
        }
        let request = TextToImage.Request(
            prompt: record.prompt, negativePrompt: record.negativePrompt, seed: UInt64(record.seed),
            steps: record.steps,
            guidanceScale: record.guidanceScale)
        var last: HostTensor?
        for try await event in pipeline.run(request) {
            guard case .step(let step) = event else { continue }
            last = step.latents
            let start = (step.index + 1) * size
            guard start + size <= expected.count else { continue }
            let reference = expected.floats[start..<start + size]
            result.latentDifferences.append(zip(step.latents.floats, reference).reduce(0) { max($0, abs($1.0 - $1.1)) })
        }
        if let last {
            result.image = try GoldenCheck.psnr(vector("decoder.image").floats, try await pipeline.decode(last).floats)
        }
        await runner.unloadAll()
        return result
    }

    /// 20 log10(greatest magnitude of the reference / root mean square error), in dB; NaN if a value isn't finite.
    public static func psnr(_ reference: [Float], _ result: [Float]) -> Double {
        guard reference.count == result.count, !reference.isEmpty, (reference + result).allSatisfy(\.isFinite) else {
            return .nan
        }
        let squares = zip(reference, result).reduce(0.0) { sum, pair in
            let difference = Double(pair.0) - Double(pair.1)
            return sum + difference * difference
        }
        let error = (squares / Double(reference.count)).squareRoot()
        let peak = reference.reduce(0) { max($0, abs(Double($1))) }
        return error == 0 ? .infinity : 20 * log10(peak / error)
    }

    private func vector(_ name: String) throws -> HostTensor { try bundle.golden(name).tensor() }

    /// A UNet of batch 1 was called twice for one step: its golden vectors have the rows of both calls.
    private func compare(_ name: ComponentName, on runner: any ComponentRunner) async throws -> Double {
        let component = try bundle.component(name)
        let inputs = try component.inputs.map { ($0, try vector("\(name).\($0.name)")) }
        let calls =
            inputs.map { record, tensor in (tensor.shape.first ?? 1) / max(record.shape.first ?? 1, 1) }.max() ?? 1
        var found: [String: [HostTensor]] = [:]
        for call in 0..<max(calls, 1) {
            var given: [String: HostTensor] = [:]
            for (record, tensor) in inputs {
                let part = tensor.shape == record.shape ? tensor : try tensor.split(into: calls)[call]
                given[record.name] = part
            }
            try component.check(inputs: given, of: name)
            let outputs = try await runner.predict(name, inputs: given).outputs
            try component.check(outputs: outputs, of: name)
            for (key, tensor) in outputs { found[key, default: []].append(tensor) }
        }
        return try component.outputs.map { output in
            GoldenCheck.psnr(try vector("\(name).\(output.name)").floats, (found[output.name] ?? []).flatMap(\.floats))
        }.min { $0.isNaN || $0 < $1 } ?? .nan
    }

    private func tokensAreIdentical(_ tokenizer: CLIPTokenizer) throws -> Bool {
        guard case .uint8(let text) = try bundle.golden("tokenizer.texts").elements,
            case .int64(let offsets) = try bundle.golden("tokenizer.offsets").elements,
            case .int32(let ids) = try bundle.golden("tokenizer.ids").elements
        else {
            throw FileFormatError(file: "golden/tokenizer.*.npy", problem: "the types aren't uint8, int64 and int32")
        }
        let length = bundle.manifest.tokenizer.maxLength
        guard let last = offsets.last, last == text.count, ids.count == (offsets.count - 1) * length,
            zip(offsets, offsets.dropFirst()).allSatisfy({ $0 >= 0 && $0 <= $1 })
        else { throw FileFormatError(file: "golden/tokenizer.*.npy", problem: "the sizes don't fit each other") }
        return (0..<offsets.count - 1).allSatisfy { index in
            let sample = String(decoding: text[Int(offsets[index])..<Int(offsets[index + 1])], as: UTF8.self)
            return tokenizer.encode(sample) == Array(ids[index * length..<(index + 1) * length])
        }
    }

    private func noiseIsIdentical() throws -> Bool {
        guard case .int64(let seeds) = try bundle.golden("noise.seeds").elements else {
            throw FileFormatError(file: "golden/noise.seeds.npy", problem: "its type isn't int64")
        }
        let values = try vector("noise.values").floats
        let size = HostTensor.count(of: bundle.manifest.latents.shape)
        guard size > 0, values.count == seeds.count * size else {
            throw FileFormatError(file: "golden/noise.values.npy", problem: "its size doesn't fit the latents'")
        }
        return seeds.enumerated().allSatisfy { index, seed in
            var generator = TorchGenerator(seed: UInt64(bitPattern: seed))
            return generator.normal(count: size).elementsEqual(values[index * size..<(index + 1) * size])
        }
    }
}
