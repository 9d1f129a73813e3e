"""Pipelines over the torch reference, without an export."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import (
    SCHEMA_VERSION,
    ComponentRecord,
    FileRecord,
    GuidanceRecord,
    LatentsRecord,
    Manifest,
    SourceRecord,
    TokenizerRecord,
)
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.export.component import Setting, component_specs
from sfmobile.runtime.torch import TorchRuntime
from sfmobile.sampling.pipeline import TextToImage

NO_FILE = FileRecord(bytes=0, sha256="0" * 64)


def manifest_of(
    checkpoint: Checkpoint, batch: Literal[1, 2] = 2, latent_size: tuple[int, int] | None = None
) -> Manifest:
    """The manifest that an export of `checkpoint` would have, with packages that aren't there."""
    setting = Setting(checkpoint, latent_size or checkpoint.latent_size, batch)
    height, width = setting.latent_size
    autoencoder = checkpoint.autoencoder_layout
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=checkpoint.name,
        source=SourceRecord(id=str(checkpoint.root), sha256="0" * 64),
        target="ios17",
        options={},
        tools={},
        pipeline=checkpoint.pipeline,
        components={
            name: ComponentRecord(
                runs=component_specs(checkpoint)[name].runs,
                format="mlprogram",
                package=f"{component_specs(checkpoint)[name].package}.mlpackage",
                inputs=component_specs(checkpoint)[name].inputs(setting),
                outputs=component_specs(checkpoint)[name].outputs(setting),
                compute_precision="float16",
                attention="original",
                compression=None,
                parameters=checkpoint.parameters(name),
                bytes=0,
                source_sha256=checkpoint.sha256(name),
                options_sha256="0" * 64,
                files={f"{component_specs(checkpoint)[name].package}.mlpackage/Manifest.json": NO_FILE},
            )
            for name in checkpoint.description.components
        },
        sampler=checkpoint.sampler,
        latents=LatentsRecord(
            channels=autoencoder.latent_channels,
            height=height,
            width=width,
            pixels_per_latent=autoencoder.downsampling,
            scaling_factor=autoencoder.scaling_factor,
        ),
        guidance=GuidanceRecord(batch=batch, default_scale=checkpoint.guidance_scale),
        time_embedding=checkpoint.time_embedding,
        tokenizers={
            text.tokenizer_name: TokenizerRecord(
                vocab=f"{text.tokenizer_name}/vocab.json",
                merges=f"{text.tokenizer_name}/merges.txt",
                max_length=text.tokenizer.max_length,
                bos_token_id=text.tokenizer.bos_token_id,
                eos_token_id=text.tokenizer.eos_token_id,
                pad_token_id=text.tokenizer.pad_token_id,
                added_tokens=text.tokenizer.added_tokens,
                exact_tokens=text.tokenizer.exact_tokens,
                files={
                    f"{text.tokenizer_name}/vocab.json": NO_FILE,
                    f"{text.tokenizer_name}/merges.txt": NO_FILE,
                },
            )
            for text in checkpoint.texts
        },
    )


def reference_bundle(checkpoint: Checkpoint, batch: Literal[1, 2] = 2, root: Path | None = None) -> Bundle:
    """A bundle whose folder is the checkpoint's own: its tokenizer stands at the same place."""
    return Bundle(root or checkpoint.root, manifest_of(checkpoint, batch))


def reference_pipeline(checkpoint: Checkpoint, batch: Literal[1, 2] = 2, *, keep_loaded: bool = True) -> TextToImage:
    bundle = reference_bundle(checkpoint, batch)
    return TextToImage.of_bundle(bundle, TorchRuntime(bundle, checkpoint), keep_loaded=keep_loaded)
