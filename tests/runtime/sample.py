"""A bundle of three small real programs, with numpy formulas for what they compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from coremltools.converters.mil import Builder as mb

from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import ComponentName, ComponentRecord, TensorRecord
from sfmobile.bundle.store import BundleWriter
from tests.bundle.sample import OPTIONS_SHA, PACKAGES, RUNS, SOURCE_SHA, digest_tree, finish_bundle
from tests.runtime.mil.programs import build_program, save_program

RANDOM = np.random.default_rng(0)
TABLE = RANDOM.normal(size=(40, 16)).astype(np.float16)
KERNEL = RANDOM.normal(scale=0.2, size=(4, 4, 3, 3)).astype(np.float16)
COLOURS = RANDOM.normal(scale=0.2, size=(3, 4, 1, 1)).astype(np.float16)

Tensors = tuple[TensorRecord, ...]
INPUTS: dict[ComponentName, Tensors] = {
    "text_encoder": (TensorRecord(name="input_ids", shape=(1, 77), dtype="int32"),),
    "unet": (
        TensorRecord(name="latents", shape=(2, 4, 8, 8), dtype="float16"),
        TensorRecord(name="time_embedding", shape=(2, 4, 1, 1), dtype="float16"),
        TensorRecord(name="encoder_hidden_states", shape=(2, 16, 1, 77), dtype="float16"),
    ),
    "decoder": (TensorRecord(name="latents", shape=(1, 4, 8, 8), dtype="float16"),),
}
OUTPUTS: dict[ComponentName, Tensors] = {
    "text_encoder": (TensorRecord(name="encoder_hidden_states", shape=(1, 16, 1, 77), dtype="float16"),),
    "unet": (TensorRecord(name="model_output", shape=(2, 4, 8, 8), dtype="float16"),),
    "decoder": (TensorRecord(name="image", shape=(1, 3, 8, 8), dtype="float16"),),
}


def text_encoder(input_ids: Any) -> Any:
    rows = mb.gather(x=TABLE, indices=input_ids, axis=0)
    return mb.transpose(x=mb.expand_dims(x=rows, axes=[2]), perm=[0, 3, 2, 1], name="encoder_hidden_states")


def unet(latents: Any, time_embedding: Any, encoder_hidden_states: Any) -> Any:
    context = mb.reduce_mean(x=encoder_hidden_states, axes=[1, 3], keep_dims=True)
    hidden = mb.conv(x=latents, weight=KERNEL, pad_type="same")
    return mb.add(x=mb.add(x=hidden, y=time_embedding), y=context, name="model_output")


def decoder(latents: Any) -> Any:
    return mb.conv(x=latents, weight=COLOURS, name="image")


BODIES = {"text_encoder": text_encoder, "unet": unet, "decoder": decoder}


def sample_inputs(name: ComponentName, seed: int = 1) -> dict[str, np.ndarray]:
    """Inputs of the recorded shapes: float32 values that float16 holds."""
    random = np.random.default_rng(seed)
    return {
        item.name: random.integers(0, len(TABLE), item.shape).astype(np.int32)
        if item.dtype == "int32"
        else random.normal(size=item.shape).astype(np.float16).astype(np.float32)
        for item in INPUTS[name]
    }


def expected_output(name: ComponentName, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """What the component computes, in float32."""
    if name == "text_encoder":
        return TABLE.astype(np.float32)[inputs["input_ids"]].transpose(0, 2, 1)[:, :, None]
    if name == "decoder":
        return np.einsum("kc,nchw->nkhw", COLOURS[:, :, 0, 0].astype(np.float32), inputs["latents"])
    latents, kernel = (torch.from_numpy(v.astype(np.float32)) for v in (inputs["latents"], KERNEL))
    hidden = torch.conv2d(latents, kernel, padding=1).numpy()
    return hidden + inputs["time_embedding"] + inputs["encoder_hidden_states"].mean((1, 3), keepdims=True)


def write_runtime_bundle(root: Path) -> Bundle:
    """Write the bundle, its checksums in place."""
    with BundleWriter(root) as writer:
        records = {}
        for name, package in PACKAGES.items():
            dtypes = {"float16": np.float16, "int32": np.int32}
            zeros = {item.name: np.zeros(item.shape, dtypes[item.dtype]) for item in INPUTS[name]}
            program = build_program(BODIES[name], zeros)
            with writer.component(name, package) as path:
                save_program(program, path.parent, name=path.stem)
            files = digest_tree(writer.staging, package)
            records[name] = ComponentRecord(
                runs=RUNS[package],
                format="mlprogram",
                package=package,
                inputs=INPUTS[name],
                outputs=OUTPUTS[name],
                compute_precision="float16",
                attention="original",
                compression=None,
                parameters=1,
                bytes=sum(file.bytes for file in files.values()),
                source_sha256=SOURCE_SHA,
                options_sha256=OPTIONS_SHA,
                files=files,
            )
            writer.finish(name, records[name])
        return finish_bundle(writer, records, time_dimension=4)
