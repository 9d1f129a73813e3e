"""A complete bundle of a few hundred bytes, for tests of reading and writing. Its packages hold no programs.

`tests/bundle/sample/` is the committed output, which the Swift tests read too; `broken.json` lists what is done to it.
Run `python -m tests.bundle.sample` to rewrite it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sfmobile.bundle.choices import Runs
from sfmobile.bundle.digest import digest_tree
from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import (
    SCHEMA_VERSION,
    ComponentName,
    ComponentRecord,
    CompressionRecord,
    GoldenRecord,
    GuidanceRecord,
    LatentsRecord,
    Manifest,
    SourceRecord,
    TensorRecord,
    TimeEmbeddingRecord,
    TokenizerRecord,
)
from sfmobile.bundle.pipeline import TEXT_TO_IMAGE, PipelineRecord, TextCondition
from sfmobile.bundle.samplers import DDIMRecord
from sfmobile.bundle.store import BundleWriter

SAMPLE = Path(__file__).with_name("sample")
BROKEN = Path(__file__).with_name("broken.json")
PACKAGES: dict[ComponentName, str] = {
    "text_encoder": "TextEncoder.mlpackage",
    "unet": "UNet.mlpackage",
    "decoder": "Decoder.mlpackage",
}
RUNS: dict[str, Runs] = {
    "TextEncoder.mlpackage": "per_prompt",
    "UNet.mlpackage": "per_step",
    "Decoder.mlpackage": "per_picture",
}
SOURCE_SHA = "5" * 64
OPTIONS_SHA = "0" * 64


def write_package(path: Path, content: bytes = b"weights") -> None:
    """Something shaped like an .mlpackage."""
    weights = path / "Data/com.apple.CoreML/weights"
    weights.mkdir(parents=True)
    (weights / "weight.bin").write_bytes(content)
    (path / "Data/com.apple.CoreML/model.mlmodel").write_bytes(b"model")
    (path / "Manifest.json").write_text("{}\n", encoding="utf-8")


def component_record(root: Path, package: str, source: str = SOURCE_SHA, options: str = OPTIONS_SHA) -> ComponentRecord:
    files = digest_tree(root, package)
    return ComponentRecord(
        runs=RUNS[package],
        format="mlprogram",
        package=package,
        inputs=(TensorRecord(name="latents", shape=(1, 4, 8, 8), dtype="float16", description="scaled latents"),),
        outputs=(TensorRecord(name="image", shape=(1, 3, 64, 64), dtype="float16", description="RGB in [-1, 1]"),),
        compute_precision="float16",
        attention="original",
        compression=CompressionRecord(bits=6),
        parameters=7,
        bytes=sum(file.bytes for file in files.values()),
        source_sha256=source,
        options_sha256=options,
        files=files,
    )


def add_component(
    writer: BundleWriter, name: ComponentName, content: bytes = b"weights", **hashes: str
) -> ComponentRecord:
    package = PACKAGES[name]
    with writer.component(name, package) as path:
        write_package(path, content + name.encode())
    record = component_record(writer.staging, package, **hashes)
    writer.finish(name, record)
    return record


def _write_tokenizer(folder: Path) -> None:
    (folder / "vocab.json").write_text('{"a": 0}\n', encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")


def finish_bundle(
    writer: BundleWriter, components: dict[ComponentName, ComponentRecord], time_dimension: int = 32
) -> Bundle:
    tokenizer = writer.folder("tokenizer", _write_tokenizer)
    golden = writer.folder("golden", lambda folder: np.save(folder / "latents.npy", np.arange(4, dtype=np.float32)))
    return writer.commit(
        Manifest(
            schema_version=SCHEMA_VERSION,
            name="sample",
            source=SourceRecord(id="sample", sha256=SOURCE_SHA, licence="MIT"),
            target="ios17",
            options={"attention": "original"},
            tools={"sfmobile": "0"},
            pipeline=PipelineRecord(
                family="stable-diffusion",
                task="text-to-image",
                components=TEXT_TO_IMAGE,
                conditions=(TextCondition(),),
                default_steps=8,
            ),
            components=components,
            sampler=DDIMRecord(
                num_train_timesteps=1000,
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                prediction_type="epsilon",
                timestep_spacing="leading",
                steps_offset=1,
                set_alpha_to_one=False,
                clip_sample=False,
                rescale_betas_zero_snr=False,
            ),
            latents=LatentsRecord(channels=4, height=8, width=8, pixels_per_latent=8, scaling_factor=0.18215),
            guidance=GuidanceRecord(batch=2, default_scale=7.5),
            time_embedding=TimeEmbeddingRecord(dimension=time_dimension),
            tokenizers={
                "tokenizer": TokenizerRecord(
                    vocab="tokenizer/vocab.json",
                    merges="tokenizer/merges.txt",
                    max_length=77,
                    bos_token_id=49406,
                    eos_token_id=49407,
                    pad_token_id=49407,
                    files=tokenizer,
                )
            },
            golden=GoldenRecord(prompt="a", negative_prompt="", seed=0, steps=1, guidance_scale=7.5, files=golden),
        )
    )


def write_sample(root: Path, content: bytes = b"weights", **hashes: str) -> Bundle:
    with BundleWriter(root) as writer:
        return finish_bundle(writer, {name: add_component(writer, name, content, **hashes) for name in TEXT_TO_IMAGE})


if __name__ == "__main__":
    write_sample(SAMPLE)
