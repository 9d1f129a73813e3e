extension OrderedJSON {
    /// A parsed manifest of schema version 1 as one of version 2; any other as it is. `sfmobile/bundle/upgrade.py` does the
    /// same, and a test holds both to one committed bundle.
    ///
    /// Version 1 knew one pipeline: DDIM (`scheduler`, which also held the default number of steps), one `tokenizer`, and
    /// text encoder, UNet and decoder. What doesn't look like it is left for the reader to refuse.
    func upgradedManifest() -> OrderedJSON {
        let runs = ["text_encoder": "per_prompt", "unet": "per_step", "decoder": "per_picture"]
        guard case .object(let members) = self else { return self }
        let values = Dictionary(members.map { ($0.key, $0.value) }) { first, _ in first }
        guard values["schema_version"] == .integer(1), let tokenizer = values["tokenizer"], case .object = tokenizer,
            case .object(let sampler)? = values["scheduler"], case .object(let components)? = values["components"],
            components.allSatisfy({ runs[$0.key] != nil })
        else { return self }
        let steps = sampler.first { $0.key == "default_steps" }?.value ?? .integer(8)
        let pipeline: [Member] = [
            Member("family", .string("stable-diffusion")),
            Member("task", .string("text-to-image")),
            Member("components", .array(["text_encoder", "unet", "decoder"].map { .string($0) })),
            Member("conditions", .array([.object([Member("kind", .string("text"))])])),
            Member("default_steps", steps),
        ]
        let changed: [Member] = [
            Member("schema_version", .integer(2)),
            Member("pipeline", .object(pipeline)),
            Member(
                "components",
                .object(
                    components.map { component in
                        guard case .object(let record) = component.value, let when = runs[component.key] else {
                            return component
                        }
                        return Member(component.key, .object(record + [Member("runs", .string(when))]))
                    })),
            Member("sampler", .object(sampler.filter { $0.key != "default_steps" })),
            Member("tokenizers", .object([Member("tokenizer", tokenizer)])),
        ]
        let gone: Set = ["schema_version", "components", "scheduler", "tokenizer"]
        return .object(members.filter { !gone.contains($0.key) } + changed)
    }
}
