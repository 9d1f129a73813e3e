"""Manifests of older schema versions, made into what the readers of today know. Swift has the same in
`ManifestUpgrade.swift`; a test holds both to one committed bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sfmobile.bundle.choices import Runs
from sfmobile.bundle.pipeline import TEXT_TO_IMAGE

# When the only three components of version 1 run.
_RUNS: dict[str, Runs] = {"text_encoder": "per_prompt", "unet": "per_step", "decoder": "per_picture"}
_DEFAULT_STEPS = 8


def upgraded(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """`content`, a parsed manifest of version 1, as one of version 2; any other as it is.

    Version 1 knew one pipeline: DDIM (`scheduler`, which also held the default number of steps), one `tokenizer`, and
    text encoder, UNet and decoder. What doesn't look like it is left for the reader to refuse.
    """
    if content.get("schema_version") != 1 or isinstance(content.get("schema_version"), bool):
        return content
    sampler, tokenizer, components = (content.get(key) for key in ("scheduler", "tokenizer", "components"))
    if not all(isinstance(value, Mapping) for value in (sampler, tokenizer, components)):
        return content
    assert isinstance(sampler, Mapping) and isinstance(tokenizer, Mapping) and isinstance(components, Mapping)
    if not set(components) <= set(_RUNS):
        return content
    kept = {key: value for key, value in content.items() if key not in ("scheduler", "tokenizer")}
    return {
        **kept,
        "schema_version": 2,
        "pipeline": {
            "family": "stable-diffusion",
            "task": "text-to-image",
            "components": list(TEXT_TO_IMAGE),
            "conditions": [{"kind": "text"}],
            "default_steps": sampler.get("default_steps", _DEFAULT_STEPS),
        },
        "components": {
            name: {**record, "runs": _RUNS[name]} if isinstance(record, Mapping) else record
            for name, record in components.items()
        },
        "sampler": {key: value for key, value in sampler.items() if key != "default_steps"},
        "tokenizers": {"tokenizer": tokenizer},
    }
