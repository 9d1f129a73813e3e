"""Fixtures shared by all tests: tiny checkpoints and bundles, written once a session."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.hub import open_checkpoint
from sfmobile.export.options import ExportOptions
from sfmobile.testing import write_synthetic_checkpoint
from tests.checkpoint.added_tokens import LAYOUTS
from tests.exported import SharedExports, export_tiny, made_once, shared_folder
from tests.tiny import (
    SMALLEST_UNET,
    TINY_ASYMMETRIC_AUTOENCODER,
    TINY_AUTOENCODER,
    TINY_LATENT_SIZE,
    TINY_SNAPFUSION_UNET,
    TINY_TEXT_ENCODER,
    TINY_UNET,
    TINY_XL_TEXT_ENCODER,
    TINY_XL_TEXT_ENCODER_2,
    TINY_XL_UNET,
)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What sfmobile keeps for later goes into a folder of this run, and to the processes that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SFMOBILE_CACHE", str(shared_folder(tmp_path_factory) / "cache"))
        yield


@pytest.fixture(scope="session")
def added_tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tokenizer folders with added tokens, in each layout. Shared: don't write into them."""
    root: Path = tmp_path_factory.mktemp("tokenizers")
    for name, write in LAYOUTS.items():
        (root / name).mkdir()
        write(root / name)
    return {name: root / name for name in LAYOUTS}


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A tiny checkpoint in fp16 that diffusers can load too. Shared: don't write into it."""

    def write(draft: Path) -> None:
        write_synthetic_checkpoint(
            draft,
            unet_layout=TINY_UNET,
            text_encoder_layout=TINY_TEXT_ENCODER,
            autoencoder_layout=TINY_AUTOENCODER,
            latent_size=TINY_LATENT_SIZE,
        )

    return Checkpoint.open(made_once(shared_folder(tmp_path_factory) / "tiny", write))


@pytest.fixture(scope="session")
def smallest_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A tiny checkpoint whose UNet has each kind of block once. Shared: don't write into it."""

    def write(draft: Path) -> None:
        write_synthetic_checkpoint(
            draft,
            unet_layout=SMALLEST_UNET,
            text_encoder_layout=replace(TINY_TEXT_ENCODER, layers=1),
            autoencoder_layout=TINY_AUTOENCODER,
            latent_size=TINY_LATENT_SIZE,
        )

    return Checkpoint.open(made_once(shared_folder(tmp_path_factory) / "smallest", write))


@pytest.fixture(scope="session")
def tiny_snapfusion_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A tiny checkpoint with SnapFusion's kind of UNet and decoder, which only we can load."""
    root: Path = tmp_path_factory.mktemp("checkpoints") / "tiny-snapfusion"
    write_synthetic_checkpoint(
        root,
        unet_layout=TINY_SNAPFUSION_UNET,
        text_encoder_layout=TINY_TEXT_ENCODER,
        autoencoder_layout=TINY_ASYMMETRIC_AUTOENCODER,
        latent_size=TINY_LATENT_SIZE,
    )
    return Checkpoint.open(root)


@pytest.fixture(scope="session")
def tiny_xl_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A tiny Stable Diffusion XL in fp16 that diffusers can load too. Shared: don't write into it."""

    def write(draft: Path) -> None:
        write_synthetic_checkpoint(
            draft,
            unet_layout=TINY_XL_UNET,
            text_encoder_layout=TINY_XL_TEXT_ENCODER,
            text_encoder_2_layout=TINY_XL_TEXT_ENCODER_2,
            size_dimension=8,
            autoencoder_layout=TINY_AUTOENCODER,
            latent_size=TINY_LATENT_SIZE,
        )

    return Checkpoint.open(made_once(shared_folder(tmp_path_factory) / "tiny-xl", write))


@pytest.fixture(scope="session")
def tiny_xl_bundle(tiny_xl_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny Stable Diffusion XL exported in fp16 with the image encoder and golden vectors. Don't write into it."""
    exports = SharedExports(tiny_xl_checkpoint, shared_folder(tmp_path_factory))
    return exports(ExportOptions(extras=("encoder",)), golden=True)


@pytest.fixture(scope="session")
def tiny_exports(tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> SharedExports:
    """The tiny checkpoint exported in any way, each once in a run of the tests."""
    return SharedExports(tiny_checkpoint, shared_folder(tmp_path_factory))


@pytest.fixture(scope="session")
def tiny_bundle(tiny_exports: SharedExports) -> Bundle:
    """The tiny checkpoint exported in fp16, guidance batch 2, with golden vectors. Shared: don't write into it."""
    return tiny_exports(ExportOptions(), golden=True)


@pytest.fixture(scope="session")
def tiny_encoding_bundle(
    tiny_bundle: Bundle, tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """The tiny bundle with the image encoder. Shared: don't write into it."""

    def export(draft: Path) -> None:
        shutil.copytree(tiny_bundle.root, draft)
        export_tiny(tiny_checkpoint, draft, ExportOptions(components=("encoder",)))

    return Bundle.open(made_once(shared_folder(tmp_path_factory) / "tiny-encoding", export))


@pytest.fixture(scope="session")
def tiny_controlled_bundle(
    tiny_checkpoint: Checkpoint, tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """The tiny checkpoint under a ControlNet called edges, what doesn't depend on it reused. Don't write into it."""
    from tests.controlnets import write_controlnet

    folder = shared_folder(tmp_path_factory)
    control = folder / "controlnet-edges"

    def export(draft: Path) -> None:
        write_controlnet(control)
        shutil.copytree(tiny_bundle.root, draft)
        export_tiny(open_checkpoint(tiny_checkpoint.root, control=[f"edges={control}"]), draft, ExportOptions())

    return Bundle.open(made_once(folder / "controlled", export))


@pytest.fixture(scope="session")
def tiny_safe_bundle(
    tiny_checkpoint: Checkpoint, tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """The tiny bundle with a safety checker, of a checkpoint that has one. Shared: don't write into it."""
    from tests.safety_checkers import with_safety_checker

    folder = shared_folder(tmp_path_factory)

    def export(draft: Path) -> None:
        source = with_safety_checker(tiny_checkpoint.root, folder / "tiny-safe")
        shutil.copytree(tiny_bundle.root, draft)
        export_tiny(Checkpoint.open(source), draft, ExportOptions(components=("safety_checker",)))

    return Bundle.open(made_once(folder / "safe", export))


@pytest.fixture(scope="session")
def tiny_palettized_bundle(tiny_exports: SharedExports) -> Bundle:
    """The tiny checkpoint at 6 bits, split attention, guidance batch 1. Shared: don't write into it."""
    return tiny_exports(ExportOptions(bits=6, attention="split-einsum", guidance_batch=1), golden=True)
