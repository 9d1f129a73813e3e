"""The manifest's constants, derived anew from the checkpoint: checked, not trusted.

Both sides of a comparison read the same manifest, so a wrong constant in it (a beta, a scaling factor, two tokens
exchanged) gives both the same other picture. What a checkpoint says doesn't go through it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfmobile.checkpoint.tokenizer import copy_tokenizer
from sfmobile.export.component import Setting, component_specs
from sfmobile.files import sha256_of_file

if TYPE_CHECKING:
    from sfmobile.bundle.directory import Bundle
    from sfmobile.bundle.manifest import ComponentRecord
    from sfmobile.checkpoint.directory import Checkpoint


def constant_faults(bundle: Bundle, checkpoint: Checkpoint) -> list[str]:
    """Every constant of the manifest that isn't what the checkpoint says, in words; none is what ought to be."""
    manifest = bundle.manifest
    # Whoever exported may have chosen other defaults than the checkpoint's.
    checkpoint = checkpoint.with_defaults(
        manifest.options.get("default_steps"), manifest.options.get("default_guidance")
    )
    layout = checkpoint.autoencoder_layout
    pairs: tuple[tuple[str, Mapping[str, Any], Mapping[str, Any]], ...] = (
        ("pipeline", manifest.pipeline.model_dump(), checkpoint.pipeline.model_dump()),
        ("sampler", manifest.sampler.model_dump(), checkpoint.sampler.model_dump()),
        ("time_embedding", manifest.time_embedding.model_dump(), checkpoint.time_embedding.model_dump()),
        (
            "latents",
            manifest.latents.model_dump(include={"channels", "pixels_per_latent", "scaling_factor"}),
            {
                "channels": checkpoint.autoencoder_layout.latent_channels,
                "pixels_per_latent": layout.downsampling,
                "scaling_factor": layout.scaling_factor,
            },
        ),
        (
            "guidance",
            manifest.guidance.model_dump(include={"default_scale"}),
            {"default_scale": checkpoint.guidance_scale},
        ),
    )
    faults = [
        f"{part}.{key} is {found[key]!r} in the manifest and {expected[key]!r} in the checkpoint"
        for part, found, expected in pairs
        for key in expected
        if found[key] != expected[key]
    ]
    return [*faults, *_tokenizer_faults(bundle, checkpoint), *_border_faults(bundle, checkpoint)]


def _tokenizer_faults(bundle: Bundle, checkpoint: Checkpoint) -> Iterator[str]:
    record, constants = bundle.manifest.tokenizer, checkpoint.tokenizer
    keys = ["max_length", "bos_token_id", "eos_token_id", "pad_token_id"]
    tokens = {*constants.added_tokens.values(), *constants.exact_tokens.values()}
    # Bundles from before added tokens were recorded mean the two ends of text.
    if record.added_tokens or record.exact_tokens or tokens - {constants.bos_token_id, constants.eos_token_id}:
        keys += ["added_tokens", "exact_tokens"]
    for key in keys:
        found, expected = getattr(record, key), getattr(constants, key)
        if found != expected:
            yield f"tokenizer.{key} is {found} in the manifest and {expected} in the checkpoint"
    with tempfile.TemporaryDirectory(prefix="sfmobile-") as scratch:
        folder = Path(scratch) / "tokenizer"
        folder.mkdir()
        copy_tokenizer(checkpoint.tokenizer_dir, folder)
        for path in (record.vocab, record.merges):
            ours, theirs = bundle.root / path, folder / Path(path).name
            if not theirs.is_file() or sha256_of_file(ours) != sha256_of_file(theirs):
                yield f"{path} differs from the checkpoint's"


def _border_faults(bundle: Bundle, checkpoint: Checkpoint) -> Iterator[str]:
    """Names and shapes at the border of each component, against what its network takes and gives."""
    manifest = bundle.manifest
    setting = Setting(checkpoint, (manifest.latents.height, manifest.latents.width), manifest.guidance.batch)
    specs = component_specs(checkpoint)
    for name, record in manifest.components.items():
        if name not in specs:
            yield f"{name} is a component of the manifest and none of the checkpoint's pipeline"
            continue
        spec = specs[name]
        found = {tensor.name: tensor.shape for tensor in _border(record)}
        expected = {tensor.name: tensor.shape for tensor in (*spec.inputs(setting), *spec.outputs(setting))}
        if found != expected:
            yield f"{name} takes and gives {found} in the manifest, its network {expected}"


def _border(record: ComponentRecord) -> Iterator[Any]:
    yield from record.inputs
    yield from record.outputs
