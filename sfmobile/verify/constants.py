"""The manifest's constants, derived anew from the checkpoint: checked, not trusted.

Both sides of a comparison read the same manifest, so a wrong constant in it (a beta, a scaling factor, two tokens
exchanged) gives both the same other picture. What a checkpoint says doesn't go through it, and what a reference draws
is drawn by that.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfmobile.bundle.directory import SAFETY_FOLDER, read_vector
from sfmobile.checkpoint.tokenizer import copy_tokenizer
from sfmobile.export.component import Setting, component_specs
from sfmobile.files import sha256_of_file
from sfmobile.sampling.pipeline import TextToImage
from sfmobile.sampling.tokenizer import Tokenizer

if TYPE_CHECKING:
    from sfmobile.bundle.directory import Bundle
    from sfmobile.bundle.manifest import ComponentRecord, Manifest
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.checkpoint.text import TextPart
    from sfmobile.runtime.protocol import Runtime

# The manifest's parts that a checkpoint decides.
DERIVED = ("pipeline", "sampler", "time_embedding", "latents", "guidance")


def derived_manifest(manifest: Manifest, checkpoint: Checkpoint) -> Manifest:
    """`manifest` with every constant that the checkpoint decides as the checkpoint says."""
    # Whoever exported may have chosen other defaults than the checkpoint's.
    options = manifest.options
    checkpoint = _as_exported(manifest, checkpoint)
    checkpoint = checkpoint.with_defaults(options.get("default_steps"), options.get("default_guidance"))
    layout = checkpoint.autoencoder_layout
    latents = {
        "channels": layout.latent_channels,
        "pixels_per_latent": layout.downsampling,
        "scaling_factor": layout.scaling_factor,
    }
    return manifest.model_copy(
        update={
            "pipeline": checkpoint.pipeline,
            "sampler": checkpoint.sampler,
            "time_embedding": checkpoint.time_embedding,
            "latents": manifest.latents.model_copy(update=latents),
            "guidance": manifest.guidance.model_copy(update={"default_scale": checkpoint.guidance_scale}),
        }
    )


def _as_exported(manifest: Manifest, checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with the optional components that whoever exported asked for."""
    return checkpoint.with_recorded(manifest.pipeline.components)


def reference_pipeline(bundle: Bundle, checkpoint: Checkpoint, runtime: Runtime) -> TextToImage:
    """The loop on `runtime` by the checkpoint's own constants and tokenizer, at the bundle's size and batch."""
    return TextToImage(
        runtime,
        derived_manifest(bundle.manifest, checkpoint),
        {text.tokenizer_name: Tokenizer(text.tokenizer_dir, text.tokenizer) for text in checkpoint.texts},
        keep_loaded=False,
    )


def constant_faults(bundle: Bundle, checkpoint: Checkpoint) -> list[str]:
    """Every constant of the manifest that isn't what the checkpoint says, in words; none is what ought to be."""
    found = bundle.manifest.model_dump(include=set(DERIVED))
    expected = derived_manifest(bundle.manifest, checkpoint).model_dump(include=set(DERIVED))
    faults = [
        f"{part}.{key} is {found[part].get(key)!r} in the manifest and {value!r} in the checkpoint"
        for part in DERIVED
        for key, value in expected[part].items()
        if found[part].get(key) != value
    ]
    for text in checkpoint.texts:
        faults += _tokenizer_faults(bundle, text)
    return [*faults, *_safety_faults(bundle, checkpoint), *_border_faults(bundle, checkpoint)]


def _tokenizer_faults(bundle: Bundle, text: TextPart) -> Iterator[str]:
    record, constants = bundle.manifest.tokenizers.get(text.tokenizer_name), text.tokenizer
    if record is None:
        yield f"tokenizers has no {text.tokenizer_name} in the manifest"
        return
    keys = ["max_length", "bos_token_id", "eos_token_id", "pad_token_id"]
    tokens = {*constants.added_tokens.values(), *constants.exact_tokens.values()}
    # Bundles from before added tokens were recorded mean the two ends of text.
    if record.added_tokens or record.exact_tokens or tokens - {constants.bos_token_id, constants.eos_token_id}:
        keys += ["added_tokens", "exact_tokens"]
    for key in keys:
        found, expected = getattr(record, key), getattr(constants, key)
        if found != expected:
            place = f"tokenizers.{text.tokenizer_name}.{key}"
            yield f"{place} is {found} in the manifest and {expected} in the checkpoint"
    with tempfile.TemporaryDirectory(prefix="sfmobile-") as scratch:
        folder = Path(scratch) / "tokenizer"
        folder.mkdir()
        copy_tokenizer(text.tokenizer_dir, folder)
        for path in (record.vocab, record.merges):
            ours, theirs = bundle.root / path, folder / Path(path).name
            if not theirs.is_file() or sha256_of_file(ours) != sha256_of_file(theirs):
                yield f"{path} differs from the checkpoint's"


def _safety_faults(bundle: Bundle, checkpoint: Checkpoint) -> Iterator[str]:
    """What the safety checker compares with, and how pictures are brought to it."""
    record = bundle.manifest.safety
    if record is None or checkpoint.safety is None:
        return
    expected = checkpoint.safety.record(record.files).model_dump()
    for key, found in record.model_dump().items():
        if found != expected[key]:
            yield f"safety.{key} is {found!r} in the manifest and {expected[key]!r} in the checkpoint"
    for name, rows in checkpoint.safety.concepts().items():
        path = bundle.root / SAFETY_FOLDER / name
        if not np.array_equal(read_vector(path), rows):
            yield f"{SAFETY_FOLDER}/{name} differs from the checkpoint's"


def _border_faults(bundle: Bundle, checkpoint: Checkpoint) -> Iterator[str]:
    """Names and shapes at the border of each component, against what its network takes and gives."""
    manifest = bundle.manifest
    setting = Setting(checkpoint, (manifest.latents.height, manifest.latents.width), manifest.guidance.batch)
    specs = component_specs(_as_exported(manifest, checkpoint))
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
