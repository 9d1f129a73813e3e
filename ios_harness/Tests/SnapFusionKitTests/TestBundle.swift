import Foundation
import SnapFusionKit
import XCTest

/// A bundle whose components hold no programs: latents of 4 × 4 × 4, pictures of 8 × 8, a tokenizer of letters.
enum TestBundle {
    static let components: [ComponentName] = [.textEncoder, .unet, .decoder]

    static func make(
        in folder: URL, batch: Int = 2, components: [ComponentName] = TestBundle.components,
        editing: (String) -> String = { $0 }
    ) throws -> ModelBundle {
        let root = folder.appendingPathComponent("bundle")
        try FileManager.default.createDirectory(
            at: root.appendingPathComponent("tokenizer"), withIntermediateDirectories: true)
        // Lowercase letters are all it knows; reading CLIP's own vocabulary takes most of a second unoptimized.
        var vocab = ["<|startoftext|>": 49406, "<|endoftext|>": 49407]
        for (index, letter) in "abcdefghijklmnopqrstuvwxyz".enumerated() {
            vocab[String(letter)] = index
            vocab["\(letter)</w>"] = 26 + index
        }
        try JSONEncoder().encode(vocab).write(to: root.appendingPathComponent("tokenizer/vocab.json"))
        try Data("#version: 0.2\n".utf8).write(to: root.appendingPathComponent("tokenizer/merges.txt"))
        if components.contains(.safetyChecker) {
            let safety = root.appendingPathComponent("safety_checker")
            try FileManager.default.createDirectory(at: safety, withIntermediateDirectories: true)
            let row = NumpyArray(shape: [1, 2], elements: .float32([1, 0]))
            for name in ["concepts", "special_care"] {
                try row.serialized().write(to: safety.appendingPathComponent("\(name).npy"))
            }
        }
        try Data(editing(manifest(batch: batch, components: components)).utf8).write(
            to: root.appendingPathComponent("manifest.json"))
        return try ModelBundle(opening: root, check: .none)
    }

    private static func manifest(batch: Int, components: [ComponentName]) -> String {
        let sha = String(repeating: "0", count: 64)
        let file = #"{"bytes": 1, "sha256": "\#(sha)"}"#
        func tensor(_ name: String, _ shape: [Int], _ dtype: String = "float16") -> String {
            #"{"name": "\#(name)", "shape": \#(shape), "dtype": "\#(dtype)"}"#
        }
        func component(_ name: ComponentName) -> String {
            let controlled = components.contains { $0.rawValue.hasPrefix("control_") }
            let called = [
                tensor("latents", [batch, 4, 4, 4]), tensor("time_embedding", [batch, 8, 1, 1]),
                tensor("encoder_hidden_states", [batch, 2, 1, 77]),
            ]
            let residuals = [tensor("residual_0", [batch, 4, 4, 4]), tensor("residual_1", [batch, 4, 2, 2])]
            let (inputs, outputs): ([String], String) =
                switch name {
                case .textEncoder:
                    ([tensor("input_ids", [1, 77], "int32")], tensor("encoder_hidden_states", [1, 2, 1, 77]))
                case .unet:
                    (called + (controlled ? residuals : []), tensor("model_output", [batch, 4, 4, 4]))
                case .encoder: ([tensor("image", [1, 3, 8, 8])], tensor("moments", [1, 8, 4, 4]))
                case .safetyChecker: ([tensor("pixel_values", [1, 3, 4, 4])], tensor("image_embeds", [1, 2]))
                case _ where name.rawValue.hasPrefix("control_"):
                    (called + [tensor("picture", [1, 3, 8, 8])], residuals.joined(separator: ", "))
                default: ([tensor("latents", [1, 4, 4, 4])], tensor("image", [1, 3, 8, 8]))
                }
            let once: [ComponentName] = [.decoder, .encoder, .safetyChecker]
            let runs = name == .textEncoder ? "per_prompt" : once.contains(name) ? "per_picture" : "per_step"
            return """
                "\(name)": {"runs": "\(runs)", "format": "mlprogram", "package": "\(name).mlpackage",
                  "inputs": [\(inputs.joined(separator: ", "))], "outputs": [\(outputs)],
                  "compute_precision": "float16", "attention": "original", "compression": null, "parameters": 10,
                  "bytes": 20, "source_sha256": "\(sha)", "options_sha256": "\(sha)",
                  "files": {"\(name).mlpackage/model": \(file)}}
                """
        }
        let controls = components.filter { $0.rawValue.hasPrefix("control_") }.map { #""\#($0)""# }.joined(separator: ", ")
        let residuals =
            controls.isEmpty ? "" : #", {"kind": "residuals", "count": 2, "components": [\#(controls)]}"#
        let all = (controls.isEmpty ? "" : ", \(controls)") + (components.contains(.encoder) ? #", "encoder""# : "")
        let isSafe = components.contains(.safetyChecker)
        let last = isSafe ? #", "safety_checker""# : ""
        let safety =
            !isSafe
            ? ""
            : """
            "safety": {"concepts": "safety_checker/concepts.npy", "special_care": "safety_checker/special_care.npy",
              "concept_thresholds": [0.5], "special_care_thresholds": [2],
              "picture": {"shortest_edge": 4, "crop_size": 4, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
              "files": {"safety_checker/concepts.npy": \(file), "safety_checker/special_care.npy": \(file)}},
            """
        return """
            {"schema_version": 2, "name": "test", "source": {"id": "test", "sha256": "\(sha)"}, "target": "ios17",
             "options": {}, "tools": {},
             "pipeline": {"family": "stable-diffusion", "task": "text-to-image", "default_steps": 8,
               "components": ["text_encoder"\(all), "unet", "decoder"\(last)], "conditions": [{"kind": "text"}\(residuals)]},
             \(safety)
             "components": {\(components.map(component).joined(separator: ",\n"))},
             "sampler": {"kind": "ddim", "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
               "beta_schedule": "scaled_linear", "prediction_type": "epsilon", "timestep_spacing": "leading",
               "steps_offset": 1, "set_alpha_to_one": false, "clip_sample": false, "rescale_betas_zero_snr": false},
             "latents": {"channels": 4, "height": 4, "width": 4, "pixels_per_latent": 2, "scaling_factor": 0.5},
             "guidance": {"batch": \(batch), "default_scale": 2.0}, "time_embedding": {"dimension": 8},
             "tokenizers": {"tokenizer": {"vocab": "tokenizer/vocab.json", "merges": "tokenizer/merges.txt", "max_length": 77,
               "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407,
               "files": {"tokenizer/vocab.json": \(file), "tokenizer/merges.txt": \(file)}}}}
            """
    }
}

/// Components in plain arithmetic, and a record of what was asked of them.
actor RecordingRunner: ComponentRunner {
    enum Call: Equatable {
        case load(ComponentName)
        case predict(ComponentName)
        case unload(ComponentName)
    }

    private(set) var calls: [Call] = []
    private(set) var loaded: Set<ComponentName> = []
    private(set) var most = 0
    private(set) var mostAtOnce = 0
    private var busy = 0
    private(set) var unetInputs: [[String: HostTensor]] = []
    private let delay: Duration
    private let brokenStep: Int?
    private let wrongShape: ComponentName?

    init(delay: Duration = .zero, brokenStep: Int? = nil, wrongShape: ComponentName? = nil) {
        self.delay = delay
        self.brokenStep = brokenStep
        self.wrongShape = wrongShape
    }

    /// What the encoder says of an image (1, 3, 8, 8): means (1, 4, 4, 4), and one log variance for all.
    static func means(_ image: [Float]) -> [Float] { (0..<64).map { image[$0] + 0.25 * image[$0 + 128] } }
    static let logVariance: Float = -2

    func describe() async throws -> RuntimeRecord { RuntimeRecord(engine: .mil, description: "arithmetic") }

    func load(_ name: ComponentName) async throws -> LoadTiming {
        calls.append(.load(name))
        most = max(most, loaded.union([name]).count)
        return loaded.insert(name).inserted ? LoadTiming(load: 0.5) : .alreadyLoaded
    }

    func predict(_ name: ComponentName, inputs: [String: HostTensor]) async throws -> ComponentPrediction {
        guard loaded.contains(name) else { throw ComponentError.notLoaded(name) }
        calls.append(.predict(name))
        busy += 1
        mostAtOnce = max(mostAtOnce, busy)
        defer { busy -= 1 }
        try await Task.sleep(for: delay)
        var outputs: [String: HostTensor]
        switch name {
        case .textEncoder:
            let ids = try XCTUnwrap(inputs["input_ids"]).floats
            outputs = [
                "encoder_hidden_states": try HostTensor(shape: [1, 2, 1, 77], (ids + ids).map { sin($0) })
            ]
        case .unet:
            unetInputs.append(inputs)
            let latents = try XCTUnwrap(inputs["latents"])
            let states = try XCTUnwrap(inputs["encoder_hidden_states"])
            let batch = latents.shape[0]
            let shifts = try states.split(into: batch).map { $0.floats[1] }
            var values = latents.floats.enumerated().map { 0.5 * $1 + shifts[$0 / (latents.count / batch)] }
            if let residual = inputs["residual_0"]?.floats { values = zip(values, residual).map { $0 + $1 } }
            if unetInputs.count == brokenStep { values[3] = .nan }
            outputs = ["model_output": try HostTensor(shape: latents.shape, values)]
        case _ where name.rawValue.hasPrefix("control_"):
            let latents = try XCTUnwrap(inputs["latents"])
            let bright = try XCTUnwrap(inputs["picture"]).floats[0]
            outputs = [
                "residual_0": try HostTensor(shape: latents.shape, latents.floats.map { bright * $0 }),
                "residual_1": try HostTensor(
                    shape: [latents.shape[0], 4, 2, 2], (0..<latents.shape[0] * 16).map { Float($0) * bright }),
            ]
        case .safetyChecker:
            // Towards the one concept, whatever it sees.
            outputs = ["image_embeds": try HostTensor(shape: [1, 2], [1, 0.1] as [Float])]
        case .encoder:
            let means = RecordingRunner.means(try XCTUnwrap(inputs["image"]).floats)
            let moments = means + [Float](repeating: RecordingRunner.logVariance, count: means.count)
            outputs = ["moments": try HostTensor(shape: [1, 8, 4, 4], moments)]
        default:
            let latents = try XCTUnwrap(inputs["latents"]).floats
            outputs = ["image": try HostTensor(shape: [1, 3, 8, 8], (0..<192).map { latents[$0 % 64] / 4 })]
        }
        if name == wrongShape { outputs = try outputs.mapValues { try HostTensor(shape: [$0.count], $0.floats) } }
        return ComponentPrediction(outputs: outputs, seconds: 0.001)
    }

    func unload(_ name: ComponentName) async {
        if loaded.remove(name) != nil { calls.append(.unload(name)) }
    }

    func unloadAll() async {
        for name in loaded.sorted() { await unload(name) }
    }

    func memory() async -> MemorySample? { MemorySample(total: 1000 + 10 * loaded.count, anonymous: 10 * loaded.count) }
}
