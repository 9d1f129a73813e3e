"""ControlNets beside a checkpoint: diffusers' directories, read and held against the UNet that they are for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sfmobile.checkpoint.config import Json, parse_controlnet, read_config
from sfmobile.checkpoint.source import CONTROL_PREFIX
from sfmobile.checkpoint.weights import StoredWeights, WeightFiles
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.files import sha256_of_file, sha256_of_value
from sfmobile.nets.layout import ControlNetLayout, UNetLayout

STEM = "diffusion_pytorch_model"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


@dataclass(frozen=True)
class ControlNetFiles:
    """An opened ControlNet. component: its name in a bundle. digest: of its config and weights."""

    component: str
    path: Path
    layout: ControlNetLayout
    weights: StoredWeights
    digest: str


def check_name(name: str) -> None:
    """Raise `UsageError` for a name that can't be a component's."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' can't name a ControlNet; expected lowercase letters, digits and underscores, such as canny."
        )


def open_controlnet(name: str, folder: Path, unet: UNetLayout, pixels_per_latent: int) -> ControlNetFiles:
    """The ControlNet in the diffusers directory `folder`, for `unet`.

    Raises `ArtifactError` for what is no ControlNet of diffusers, or one of another model: the first layer that doesn't
    fit is named.
    """
    check_name(name)
    file = folder / "config.json"
    config: Json = read_config(file)
    layout = parse_controlnet(config, file)
    _check_fit(file, layout, unet, pixels_per_latent)
    weights = WeightFiles(folder, STEM)
    return ControlNetFiles(CONTROL_PREFIX + name, folder, layout, weights, _digest(config, weights))


def _check_fit(file: Path, layout: ControlNetLayout, unet: UNetLayout, pixels_per_latent: int) -> None:
    own = layout.unet
    for what, found, expected in (
        ("cross_attention_dim", own.cross_attention_dim, unet.cross_attention_dim),
        ("in_channels", own.in_channels, unet.in_channels),
    ):
        if found != expected:
            raise ArtifactError(
                f"{file}: '{what}' is {found} and the UNet's is {expected}; the ControlNet is for another model."
            )
    if layout.downsampling != pixels_per_latent:
        raise ArtifactError(
            f"{file}: 'conditioning_embedding_out_channels' shrink a picture {layout.downsampling} times and the "
            f"latents are {pixels_per_latent} times smaller than it; the ControlNet is for another model."
        )
    theirs, ours = own.residuals(), unet.residuals()
    for index in range(max(len(theirs), len(ours))):
        there, wanted = theirs[index : index + 1], ours[index : index + 1]
        if there != wanted:
            block = "controlnet_mid_block" if index == len(theirs) - 1 else f"controlnet_down_blocks.{index}"
            raise ArtifactError(
                f"{file}: '{block}' gives {_described(there)} and the UNet takes {_described(wanted)} there; the "
                "ControlNet is for another model."
            )


def _described(residual: tuple[tuple[int, int], ...]) -> str:
    return " and ".join(f"{channels} channels, halved {level} times" for channels, level in residual) or "nothing"


def _digest(config: Json, weights: WeightFiles) -> str:
    files = sorted({weights.file(name) for name in weights})
    hashes = {path.name: sha256_of_file(path) for path in files}
    kept = {key: value for key, value in config.items() if not key.startswith("_")}
    return sha256_of_value({"config": kept, "files": hashes})
