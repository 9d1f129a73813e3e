import Foundation

extension BundleManifest {
    /// Reads `manifest.json`. Strict: a key that is unknown, missing or of the wrong type is refused, as in Python.
    ///
    /// - Parameter file: what to call the file in errors.
    /// - Throws: `BundleError` (invalid_json, future_schema, invalid_manifest, path_outside).
    public init(parsing data: Data, file: String) throws {
        let content: OrderedJSON
        do {
            content = try OrderedJSON(parsing: data)
        } catch {
            throw BundleError(.invalidJSON, "'\(file)' is not valid JSON (\(error)); \(mend).")
        }
        let fields = try Fields(content.upgradedManifest(), at: "", file: file)
        if case .integer(let version)? = fields.members["schema_version"], version > BundleManifest.schemaVersion {
            throw BundleError(
                .futureSchema,
                "'\(file)' has schema_version \(version) but this harness reads "
                    + "\(BundleManifest.schemaVersion); update it.")
        }
        self = try fields.read { try BundleManifest(fields: $0) }
    }

    private init(fields: Fields) throws {
        guard try fields.integer("schema_version") == BundleManifest.schemaVersion else {
            throw fields.problem("schema_version", "expected \(BundleManifest.schemaVersion)")
        }
        name = try fields.string("name")
        source = try fields.object("source") {
            SourceRecord(
                id: try $0.string("id"), sha256: try $0.checksum("sha256"),
                licence: try $0.string("licence", default: ""),
                revision: try $0.optional("revision") { try $0.string("revision") },
                tokenizer: try $0.optional("tokenizer") { try $0.string("tokenizer") },
                prediction: try $0.optional("prediction") { try $0.string("prediction") },
                ema: try $0.bool("ema", default: false),
                overlays: try $0.list("overlays", default: []) { try OverlayRecord(fields: $0) })
        }
        target = try fields.choice("target")
        options = try fields.value("options")
        guard case .object = options else {
            throw fields.problem("options", "expected an object, found \(options.kind)")
        }
        tools = try fields.dictionary("tools") { tools, key in try tools.string(key) }
        let pipeline = try fields.object("pipeline") { try PipelineRecord(fields: $0) }
        self.pipeline = pipeline
        var components: [ComponentName: ComponentRecord] = [:]
        let records = try fields.dictionary("components") { records, key in
            try records.object(key) { try ComponentRecord(fields: $0) }
        }
        for (key, record) in records {
            guard let name = ComponentName(rawValue: key), pipeline.components.contains(name) else {
                throw fields.problem("components.\(key)", "the pipeline has no such component")
            }
            components[name] = record
        }
        self.components = components
        sampler = try fields.object("sampler") { try SamplerRecord(fields: $0) }
        latents = try fields.object("latents") {
            LatentsRecord(
                channels: try $0.integer("channels"), height: try $0.integer("height"), width: try $0.integer("width"),
                pixelsPerLatent: try $0.integer("pixels_per_latent"), scalingFactor: try $0.number("scaling_factor"))
        }
        guidance = try fields.object("guidance") {
            let batch = try $0.integer("batch")
            guard (1...2).contains(batch) else { throw $0.problem("batch", "expected 1 or 2, found \(batch)") }
            return GuidanceRecord(batch: batch, defaultScale: try $0.number("default_scale"))
        }
        timeEmbedding = try fields.object("time_embedding") {
            try $0.constant("kind", "sinusoid")
            return TimeEmbeddingRecord(
                dimension: try $0.integer("dimension"), flipSinToCos: try $0.bool("flip_sin_to_cos", default: true),
                frequencyShift: try $0.number("frequency_shift", default: 0),
                maxPeriod: try $0.number("max_period", default: 10000))
        }
        let tokenizers = try fields.dictionary("tokenizers") { tokenizers, key in
            try tokenizers.object(key) { try TokenizerRecord(fields: $0) }
        }
        self.tokenizers = tokenizers
        let texts = try pipeline.conditions.compactMap { condition -> TokenizerRecord? in
            guard case .text(_, _, let name, _, _) = condition else { return nil }
            guard let record = tokenizers[name] else {
                throw fields.problem("tokenizers", "no tokenizer is recorded as '\(name)'")
            }
            return record
        }
        guard let first = texts.first else { throw fields.problem("pipeline.conditions", "no condition is of text") }
        tokenizer = first
        golden = try fields.optional("golden") { try $0.object("golden") { try GoldenRecord(fields: $0) } }
        safety = try fields.optional("safety") { try $0.object("safety") { try SafetyRecord(fields: $0) } }
        guard (components[.safetyChecker] != nil) == (safety != nil) else {
            throw fields.problem(
                "safety", "a safety checker's component and its concepts stand in a manifest together or not at all")
        }
    }
}

private let mend = "export it again or copy the bundle anew"

extension PipelineRecord {
    fileprivate init(fields: Fields) throws {
        family = try fields.choice("family")
        task = try fields.choice("task")
        components = try fields.strings("components").map {
            guard let name = ComponentName(rawValue: $0) else {
                throw fields.problem("components", "'\($0)' is no component's name")
            }
            return name
        }
        conditions = try fields.list("conditions") { try ConditionRecord(fields: $0) }
        defaultSteps = try fields.integer("default_steps")
        guard defaultSteps > 0 else {
            throw fields.problem("default_steps", "expected more than 0, found \(defaultSteps)")
        }
        guard Set(components).count == components.count else {
            throw fields.problem("components", "a component stands twice")
        }
        let inputs = conditions.map(\.input)
        guard Set(inputs).count == inputs.count else {
            throw fields.problem("conditions", "conditions of one input: \(inputs.joined(separator: ", "))")
        }
        var needed: [ComponentName] = []
        for case .text(_, let component, _, _, _) in conditions { needed.append(component) }
        for case .residuals(_, _, let names) in conditions { needed += names }
        for component in needed {
            guard components.contains(component) else {
                throw fields.problem(
                    "conditions", "a condition is of '\(component)', which is no component of the pipeline")
            }
        }
    }
}

extension ConditionRecord {
    fileprivate init(fields: Fields) throws {
        switch try fields.string("kind", default: "text") {
        case "text":
            let name = try fields.string("component", default: "text_encoder")
            guard let component = ComponentName(rawValue: name) else {
                throw fields.problem("component", "'\(name)' is no component's name")
            }
            self = .text(
                input: try fields.string("input", default: "encoder_hidden_states"), component: component,
                tokenizer: try fields.string("tokenizer", default: "tokenizer"),
                skippedLayers: try fields.integer("skipped_layers", default: 0),
                chunks: try fields.integer("chunks", default: 1))
            guard case .text(_, _, _, _, let chunks) = self, chunks > 0 else {
                throw fields.problem("chunks", "expected more than 0")
            }
        case "guidance_embedding":
            let dimension = try fields.integer("dimension")
            guard dimension > 0 else { throw fields.problem("dimension", "expected more than 0, found \(dimension)") }
            self = .guidanceEmbedding(
                input: try fields.string("input", default: "guidance_embedding"), dimension: dimension)
        case "concatenated":
            self = .concatenated(
                input: try fields.string("input", default: "latents"), content: try fields.choice("content"),
                channels: try fields.count("channels"))
        case "residuals":
            let names = try fields.strings("components").map {
                guard let name = ComponentName(rawValue: $0) else {
                    throw fields.problem("components", "'\($0)' is no component's name")
                }
                return name
            }
            guard !names.isEmpty else { throw fields.problem("components", "expected one or more, found none") }
            self = .residuals(
                input: try fields.string("input", default: "residual"), count: try fields.count("count"),
                components: names)
        case let other:
            throw fields.problem(
                "kind", "expected one of text, guidance_embedding, concatenated, residuals, found '\(other)'")
        }
    }
}

extension ComponentRecord {
    fileprivate init(fields: Fields) throws {
        runs = try fields.choice("runs")
        format = try fields.choice("format")
        package = try fields.path("package")
        function = try fields.string("function", default: "main")
        defaultFunction = function
        inputs = try fields.list("inputs") { try TensorRecord(fields: $0) }
        outputs = try fields.list("outputs") { try TensorRecord(fields: $0) }
        computePrecision = try fields.choice("compute_precision")
        attention = try fields.choice("attention")
        compression = try fields.optional("compression", required: true) {
            try $0.object("compression") {
                try $0.constant("kind", "palettized")
                return CompressionRecord(
                    bits: try $0.integer("bits"),
                    groupSize: try $0.optional("group_size") { try $0.integer("group_size") },
                    ungroupedLayers: try $0.count("ungrouped_layers", default: 0),
                    recipeSHA256: try $0.optional("recipe_sha256") { try $0.checksum("recipe_sha256") })
            }
        }
        parameters = try fields.count("parameters")
        bytes = try fields.count("bytes")
        sourceSHA256 = try fields.checksum("source_sha256")
        optionsSHA256 = try fields.checksum("options_sha256")
        files = try fields.files("files")
        // Python leaves out both lists when they are empty.
        chunks = try fields.list("chunks", default: []) { try ChunkRecord(fields: $0) }
        functions = try fields.list("functions", default: []) { try FunctionRecord(fields: $0) }
        guard !files.isEmpty else { throw fields.problem("files", "no file is recorded for package '\(package)'") }
        for path in files.keys.sorted()
        where path != package && !path.hasPrefix(package + "/") && !path.hasPrefix(package + ".") {
            throw fields.problem("files", "file '\(path)' lies outside package '\(package)'")
        }
        try checkChunks(fields)
        let names = [function] + functions.map(\.function)
        guard Set(names).count == names.count else {
            throw fields.problem("functions", "functions of one name: \(names.joined(separator: ", "))")
        }
    }

    /// Every chunk takes what is there when its turn comes, and together they give the component's outputs.
    private func checkChunks(_ fields: Fields) throws {
        if chunks.isEmpty { return }
        guard format != .onnx, functions.isEmpty, chunks.count >= 2 else {
            throw fields.problem(
                "chunks", "chunks are two or more packages of one function, none of them an ONNX file")
        }
        var known: [String: TensorRecord] = [:]
        for tensor in inputs { known[tensor.name] = tensor }
        for chunk in chunks {
            guard !files(of: chunk).isEmpty else {
                throw fields.problem("chunks", "no file is recorded for chunk '\(chunk.package)'")
            }
            for tensor in chunk.inputs where !tensor.isLike(known[tensor.name]) {
                throw fields.problem(
                    "chunks", "chunk '\(chunk.package)' takes '\(tensor.name)', which nothing before it gives")
            }
            for tensor in chunk.outputs { known[tensor.name] = tensor }
        }
        for tensor in outputs where !tensor.isLike(known[tensor.name]) {
            throw fields.problem("chunks", "no chunk gives the output '\(tensor.name)'")
        }
    }
}

extension ChunkRecord {
    fileprivate init(fields: Fields) throws {
        package = try fields.path("package")
        inputs = try fields.list("inputs") { try TensorRecord(fields: $0) }
        outputs = try fields.list("outputs") { try TensorRecord(fields: $0) }
        bytes = try fields.count("bytes")
    }
}

extension FunctionRecord {
    fileprivate init(fields: Fields) throws {
        function = try fields.string("function")
        inputs = try fields.list("inputs") { try TensorRecord(fields: $0) }
        outputs = try fields.list("outputs") { try TensorRecord(fields: $0) }
    }
}

extension TensorRecord {
    fileprivate init(fields: Fields) throws {
        name = try fields.string("name")
        shape = try fields.integers("shape")
        dtype = try fields.choice("dtype")
        description = try fields.string("description", default: "")
    }

    /// Whether `other` has the same shape and type.
    fileprivate func isLike(_ other: TensorRecord?) -> Bool { shape == other?.shape && dtype == other?.dtype }
}

extension SamplerRecord {
    fileprivate init(fields: Fields) throws {
        let kind: Kind = try fields.choice("kind")
        let process = try DiffusionRecord(fields: fields)
        switch kind {
        case .ddim:
            self = .ddim(
                DDIMRecord(
                    process: process, setAlphaToOne: try fields.bool("set_alpha_to_one"),
                    clipSample: try fields.bool("clip_sample"),
                    clipSampleRange: try fields.number("clip_sample_range", default: 1),
                    eta: try fields.number("eta", default: 0)))
        case .pndm:
            self = .pndm(
                PNDMRecord(
                    process: process, setAlphaToOne: try fields.bool("set_alpha_to_one"),
                    skipRungeKutta: try fields.bool("skip_prk_steps", default: true)))
        case .euler:
            self = .euler(
                EulerRecord(
                    process: process, schedule: try fields.choice("sigma_schedule"),
                    sigmaMin: try fields.optionalNumber("sigma_min"), sigmaMax: try fields.optionalNumber("sigma_max"),
                    finalSigma: try fields.choice("final_sigma")))
        case .eulerAncestral: self = .eulerAncestral(EulerAncestralRecord(process: process))
        case .heun: self = .heun(HeunRecord(process: process, schedule: try fields.choice("sigma_schedule")))
        case .dpmMultistep:
            self = .dpmMultistep(
                try DPMSolverRecord(process, fields, eulerAtFinal: fields.bool("euler_at_final", default: false)))
        case .dpmSinglestep: self = .dpmSinglestep(try DPMSolverRecord(process, fields, eulerAtFinal: false))
        case .unipc:
            self = .unipc(
                UniPCRecord(
                    process: process, order: try fields.order(), solverType: try fields.choice("solver_type"),
                    lowerOrderFinal: try fields.bool("lower_order_final"),
                    disableCorrector: try fields.integers("disable_corrector"),
                    schedule: try fields.choice("sigma_schedule"), finalSigma: try fields.choice("final_sigma")))
        case .lcm, .tcd:
            let isLCM = kind == .lcm
            if !isLCM { _ = try fields.bool("set_alpha_to_one", default: true) }
            let record = ConsistencyRecord(
                process: process, distilledSteps: try fields.positive("original_inference_steps"),
                timestepScaling: isLCM ? try fields.number("timestep_scaling") : 10,
                clipSample: isLCM ? try fields.bool("clip_sample") : false,
                clipSampleRange: isLCM ? try fields.number("clip_sample_range") : 1,
                eta: isLCM ? 0 : try fields.number("eta"))
            self = isLCM ? .lcm(record) : .tcd(record)
        }
    }

    /// Reads a sampler's constants alone, with the manifest's names. Throws `BundleError` as the manifest would.
    public init(parsing content: OrderedJSON, file: String) throws {
        self = try Fields(content, at: "sampler", file: file).read { try SamplerRecord(fields: $0) }
    }
}

extension DiffusionRecord {
    fileprivate init(fields: Fields) throws {
        trainTimesteps = try fields.integer("num_train_timesteps")
        betaStart = try fields.number("beta_start")
        betaEnd = try fields.number("beta_end")
        betaSchedule = try fields.choice("beta_schedule")
        predictionType = try fields.choice("prediction_type")
        timestepSpacing = try fields.choice("timestep_spacing")
        stepsOffset = try fields.count("steps_offset")
        rescaleBetasZeroSNR = try fields.bool("rescale_betas_zero_snr", default: false)
    }
}

extension DPMSolverRecord {
    fileprivate init(_ process: DiffusionRecord, _ fields: Fields, eulerAtFinal: Bool) throws {
        self.process = process
        self.eulerAtFinal = eulerAtFinal
        order = try fields.order()
        solverType = try fields.choice("solver_type")
        stochastic = try fields.bool("stochastic")
        lowerOrderFinal = try fields.bool("lower_order_final")
        schedule = try fields.choice("sigma_schedule")
        finalSigma = try fields.choice("final_sigma")
        lambdaMin = try fields.optionalNumber("lambda_min")
    }
}

extension TokenizerRecord {
    fileprivate init(fields: Fields) throws {
        vocab = try fields.path("vocab")
        merges = try fields.path("merges")
        maxLength = try fields.integer("max_length")
        bosTokenID = try fields.integer("bos_token_id")
        eosTokenID = try fields.integer("eos_token_id")
        padTokenID = try fields.integer("pad_token_id")
        addedTokens = try fields.dictionary("added_tokens", default: [:]) { tokens, key in try tokens.count(key) }
        exactTokens = try fields.dictionary("exact_tokens", default: [:]) { tokens, key in try tokens.count(key) }
        files = try fields.files("files")
        for path in [vocab, merges] where files[path] == nil {
            throw fields.problem("files", "tokenizer file '\(path)' has no checksum")
        }
    }
}

extension OverlayRecord {
    fileprivate init(fields: Fields) throws {
        kind = try fields.choice("kind")
        path = try fields.string("path")
        sha256 = try fields.checksum("sha256")
        scale = kind == .lora ? try fields.number("scale") : nil
        tokens = kind == .embedding ? try fields.strings("tokens") : []
        component = kind == .controlnet ? try fields.string("component") : nil
    }
}

extension GoldenRecord {
    fileprivate init(fields: Fields) throws {
        prompt = try fields.string("prompt")
        negativePrompt = try fields.string("negative_prompt")
        seed = try fields.integer("seed")
        steps = try fields.integer("steps")
        guidanceScale = try fields.number("guidance_scale")
        files = try fields.files("files")
    }
}

extension SafetyRecord {
    fileprivate init(fields: Fields) throws {
        concepts = try fields.path("concepts")
        specialCare = try fields.path("special_care")
        conceptThresholds = try fields.numbers("concept_thresholds")
        specialCareThresholds = try fields.numbers("special_care_thresholds")
        guard !conceptThresholds.isEmpty else {
            throw fields.problem("concept_thresholds", "expected one or more, found none")
        }
        picture = try fields.object("picture") {
            let picture = Picture(
                shortestEdge: try $0.positive("shortest_edge"), cropSize: try $0.positive("crop_size"),
                mean: try $0.numbers("mean"), std: try $0.numbers("std"))
            guard picture.cropSize <= picture.shortestEdge else {
                throw $0.problem(
                    "crop_size", "a square of \(picture.cropSize) can't be cut from \(picture.shortestEdge) pixels")
            }
            guard picture.mean.count == 3, picture.std.count == 3, picture.std.allSatisfy({ $0 > 0 }) else {
                throw $0.problem("std", "expected three means and three standard deviations above 0")
            }
            return picture
        }
        files = try fields.files("files")
        for path in [concepts, specialCare] where files[path] == nil {
            throw fields.problem("files", "file '\(path)' of the safety checker has no checksum")
        }
    }
}

/// One JSON object being read: remembers which keys were asked for, so that the others can be refused.
private final class Fields {
    let members: [String: OrderedJSON]
    private let place: String
    private let file: String
    private var known: Set<String> = []

    init(_ value: OrderedJSON, at place: String, file: String) throws {
        self.place = place
        self.file = file
        guard case .object(let members) = value else {
            throw BundleError(
                .invalidManifest,
                "'\(file)' is not a valid manifest at \(place.isEmpty ? "the manifest" : place): "
                    + "expected an object, found \(value.kind); \(mend).")
        }
        self.members = Dictionary(members.map { ($0.key, $0.value) }) { first, _ in first }
    }

    /// Runs `body`, then refuses every key it didn't ask for.
    func read<Value>(_ body: (Fields) throws -> Value) throws -> Value {
        let value = try body(self)
        if let extra = members.keys.sorted().first(where: { !known.contains($0) }) {
            throw problem(extra, "an unknown key")
        }
        return value
    }

    func problem(_ key: String, _ text: String, reason: BundleError.Reason = .invalidManifest) -> BundleError {
        BundleError(reason, "'\(file)' is not a valid manifest at \(path(to: key)): \(text); \(mend).")
    }

    private func path(to key: String) -> String { place.isEmpty ? key : "\(place).\(key)" }

    private func mismatch(_ key: String, _ expected: String, _ found: OrderedJSON) -> BundleError {
        problem(key, "expected \(expected), found \(found.kind)")
    }

    func value(_ key: String) throws -> OrderedJSON {
        known.insert(key)
        guard let value = members[key] else { throw problem(key, "this key is missing") }
        return value
    }

    func string(_ key: String) throws -> String {
        let value = try value(key)
        guard case .string(let string) = value else { throw mismatch(key, "a string", value) }
        return string
    }

    func integer(_ key: String) throws -> Int {
        let value = try value(key)
        guard case .integer(let integer) = value else { throw mismatch(key, "an integer", value) }
        return integer
    }

    func number(_ key: String) throws -> Double {
        switch try value(key) {
        case .integer(let integer): return Double(integer)
        case .number(let number): return number
        case let other: throw mismatch(key, "a number", other)
        }
    }

    func bool(_ key: String) throws -> Bool {
        let value = try value(key)
        guard case .bool(let bool) = value else { throw mismatch(key, "a boolean", value) }
        return bool
    }

    private func or<Value>(_ key: String, _ fallback: Value, _ body: (String) throws -> Value) throws -> Value {
        known.insert(key)
        return members[key] == nil ? fallback : try body(key)
    }

    func string(_ key: String, default fallback: String) throws -> String { try or(key, fallback, string) }
    func count(_ key: String, default fallback: Int) throws -> Int { try or(key, fallback, count) }
    func integer(_ key: String, default fallback: Int) throws -> Int { try or(key, fallback, integer) }
    func number(_ key: String, default fallback: Double) throws -> Double { try or(key, fallback, number) }
    func bool(_ key: String, default fallback: Bool) throws -> Bool { try or(key, fallback, bool) }

    /// Nil if the value is null, or absent and not required.
    func optional<Value>(_ key: String, required: Bool = false, _ body: (Fields) throws -> Value) throws -> Value? {
        known.insert(key)
        switch members[key] {
        case nil where required: throw problem(key, "this key is missing")
        case nil, .null?: return nil
        default: return try body(self)
        }
    }

    func optionalNumber(_ key: String) throws -> Double? {
        known.insert(key)
        switch members[key] {
        case nil, .null?: return nil
        default: return try number(key)
        }
    }

    func positive(_ key: String) throws -> Int {
        let value = try integer(key)
        guard value > 0 else { throw problem(key, "expected 1 or more, found \(value)") }
        return value
    }

    /// A solver's order, 1 to 3.
    func order() throws -> Int {
        let value = try integer("solver_order")
        guard (1...3).contains(value) else { throw problem("solver_order", "expected 1 to 3, found \(value)") }
        return value
    }

    func count(_ key: String) throws -> Int {
        let value = try integer(key)
        guard value >= 0 else { throw problem(key, "expected 0 or more, found \(value)") }
        return value
    }

    func constant(_ key: String, _ expected: String) throws {
        let found = try string(key, default: expected)
        guard found == expected else { throw problem(key, "expected '\(expected)', found '\(found)'") }
    }

    func choice<Choice: RawRepresentable & CaseIterable>(_ key: String) throws -> Choice
    where Choice.RawValue == String {
        let found = try string(key)
        guard let choice = Choice(rawValue: found) else {
            let all = Choice.allCases.map(\.rawValue).joined(separator: ", ")
            throw problem(key, "expected one of \(all), found '\(found)'")
        }
        return choice
    }

    func checksum(_ key: String) throws -> String {
        let found = try string(key)
        let digits = found.utf8.allSatisfy { (0x30...0x39).contains($0) || (0x61...0x66).contains($0) }
        guard found.utf8.count == 64, digits else { throw problem(key, "expected a SHA-256 in hexadecimal digits") }
        return found
    }

    func path(_ key: String) throws -> String {
        let found = try string(key)
        try check(path: found, at: key)
        return found
    }

    private func check(path: String, at key: String) throws {
        let parts = path.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
        let bad = path.utf8.contains(UInt8(ascii: "\\")) || path.utf8.contains(0)
        let normal = parts.allSatisfy { !$0.isEmpty && !$0.elementsEqual(".".utf8) && !$0.elementsEqual("..".utf8) }
        guard !bad, normal else {
            throw problem(key, "'\(path)' is not a relative path inside the bundle", reason: .pathOutside)
        }
    }

    func object<Value>(_ key: String, _ body: (Fields) throws -> Value) throws -> Value {
        try Fields(value(key), at: path(to: key), file: file).read(body)
    }

    func dictionary<Value>(_ key: String, _ body: (Fields, String) throws -> Value) throws -> [String: Value] {
        try object(key) { fields in
            var values: [String: Value] = [:]
            for key in fields.members.keys.sorted() { values[key] = try body(fields, key) }
            return values
        }
    }

    func dictionary<Value>(
        _ key: String, default fallback: [String: Value], _ body: (Fields, String) throws -> Value
    ) throws -> [String: Value] {
        try or(key, fallback) { try dictionary($0, body) }
    }

    func files(_ key: String) throws -> [String: FileRecord] {
        try dictionary(key) { files, path in
            try files.check(path: path, at: path)
            return try files.object(path) {
                FileRecord(bytes: try $0.count("bytes"), sha256: try $0.checksum("sha256"))
            }
        }
    }

    func list<Value>(_ key: String, _ body: (Fields) throws -> Value) throws -> [Value] {
        let value = try value(key)
        guard case .array(let elements) = value else { throw mismatch(key, "a list", value) }
        return try elements.enumerated().map { index, element in
            try Fields(element, at: "\(path(to: key)).\(index)", file: file).read(body)
        }
    }

    func list<Value>(_ key: String, default fallback: [Value], _ body: (Fields) throws -> Value) throws -> [Value] {
        try or(key, fallback) { try list($0, body) }
    }

    func strings(_ key: String) throws -> [String] {
        let value = try value(key)
        guard case .array(let elements) = value else { throw mismatch(key, "a list", value) }
        return try elements.map {
            guard case .string(let string) = $0 else { throw mismatch(key, "strings", $0) }
            return string
        }
    }

    func numbers(_ key: String) throws -> [Double] {
        let value = try value(key)
        guard case .array(let elements) = value else { throw mismatch(key, "a list", value) }
        return try elements.map {
            switch $0 {
            case .integer(let integer): return Double(integer)
            case .number(let number): return number
            case let other: throw mismatch(key, "numbers", other)
            }
        }
    }

    func integers(_ key: String) throws -> [Int] {
        let value = try value(key)
        guard case .array(let elements) = value else { throw mismatch(key, "a list", value) }
        return try elements.map {
            guard case .integer(let integer) = $0 else { throw mismatch(key, "integers", $0) }
            return integer
        }
    }
}
