"""Standalone packages of single blocks, made once and kept by content hash."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from sfmobile.bundle.manifest import TensorRecord
from sfmobile.compress.recipe import LayerRecipe, Recipe, compressible_layers
from sfmobile.export.network import NetworkPackage
from sfmobile.export.package import PackageMetadata
from sfmobile.files import draft_folder
from sfmobile.inspect.lookup.block_keys import TEXT_LENGTH, BlockKey, BlockOptions

if TYPE_CHECKING:
    from torch import nn

    from sfmobile.nets.layout import UNetLayout

# Block packages are kept in this part of the cache folder (`files.cache_folder`).
CACHE = "blocks"


def block_inputs(key: BlockKey) -> tuple[TensorRecord, ...]:
    """Inputs of a block's package, float16."""

    def half(name: str, *shape: int) -> TensorRecord:
        return TensorRecord(name=name, shape=shape, dtype="float16")

    inputs = [half("x", key.batch, key.in_channels, key.height, key.width)]
    if key.kind == "resnet":
        inputs.append(half("time", key.batch, key.time, 1, 1))
    if key.kind == "time_embedding" and key.context:
        inputs.append(half("added", key.batch, key.context, 1, 1))
    if key.kind == "attention":
        inputs.append(half("context", key.batch, key.context, 1, TEXT_LENGTH))
    return tuple(inputs)


def block_output(key: BlockKey) -> TensorRecord:
    """The output of a block's package, float16."""
    factor = {"downsample": 0.5, "upsample": 2.0}.get(key.kind, 1.0)
    sides = (int(key.height * factor), int(key.width * factor))
    return TensorRecord(name="output", shape=(key.batch, key.channels, *sides), dtype="float16")


def build_block(key: BlockKey) -> nn.Module:
    """The block with random float16 weights, the same for the same key."""
    import torch
    from torch import nn

    from sfmobile.nets.attention import set_attention_form
    from sfmobile.nets.resnet import Downsample, ResnetBlock, Upsample
    from sfmobile.nets.transformer import CrossAttentionBlock
    from sfmobile.nets.unet import Perceptron, TimeEmbedding

    class Time(nn.Module):
        """The perceptron over the sinusoid, and that over what is added, through the SiLU that every block's projection
        shares."""

        def __init__(self) -> None:
            super().__init__()
            self.time_embedding = TimeEmbedding(key.in_channels, key.channels, None)
            if key.context:
                self.add_embedding = Perceptron(key.context, key.channels)

        def forward(self, x: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
            time = self.time_embedding(x, None)
            return nn.functional.silu(time if added is None else time + self.add_embedding(added))

    makers = {
        "resnet": lambda: ResnetBlock(key.in_channels, key.channels, key.groups, key.time),
        "attention": lambda: CrossAttentionBlock(key.channels, key.heads, key.context, key.groups, key.depth),
        "downsample": lambda: Downsample(key.channels),
        "upsample": lambda: Upsample(key.channels),
        "conv_in": lambda: nn.Conv2d(key.in_channels, key.channels, kernel_size=3, padding=1),
        "conv_out": lambda: nn.Sequential(
            nn.GroupNorm(key.groups, key.in_channels), nn.SiLU(), nn.Conv2d(key.in_channels, key.channels, 3, padding=1)
        ),
        "time_embedding": Time,
        "empty": nn.SiLU,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(key.sha256[:8], 16))
        net = makers[key.kind]()
    set_attention_form(net, key.attention)
    return net.half().eval()


def block_package(key: BlockKey, cache: Path) -> Path:
    """The package of a block, exported if `cache` doesn't hold it. Two processes may ask for the same one at once."""
    path = cache / f"{key.sha256}.mlpackage"
    if path.is_dir():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    with draft_folder(path) as folder:
        made = folder / path.name
        net = build_block(key)
        layers, metadata = uniform_layers(net, key.bits), PackageMetadata(str(key))
        NetworkPackage(block_inputs(key), (block_output(key),), key.target, metadata, layers).write(net, made)
        try:
            made.rename(path)
        except OSError:
            # Another process was faster; its package is the same.
            if not path.is_dir():
                raise
            shutil.rmtree(made)
    return path


def unet_package(layout: UNetLayout, options: BlockOptions, folder: Path) -> tuple[Path, tuple[TensorRecord, ...]]:
    """The whole UNet of a layout with random weights as a package in `folder`, and its inputs."""
    import torch

    from sfmobile.nets.attention import set_attention_form
    from sfmobile.nets.unet import ConditionedUNet, UNet

    def half(name: str, *shape: int) -> TensorRecord:
        return TensorRecord(name=name, shape=(options.batch, *shape), dtype="float16")

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = (UNet if layout.added_embedding_dim is None else ConditionedUNet)(layout).half().eval()
    set_attention_form(net, options.attention)
    inputs: tuple[TensorRecord, ...] = (
        half("latents", layout.in_channels, options.height, options.width),
        half("time_embedding", layout.down[0].channels, 1, 1),
        half("encoder_hidden_states", layout.cross_attention_dim, 1, TEXT_LENGTH),
    )
    if layout.added_embedding_dim is not None:
        inputs += (half("added_embedding", layout.added_embedding_dim, 1, 1),)
    outputs = (half("model_output", layout.out_channels, options.height, options.width),)
    path = folder / "unet.mlpackage"
    layers, metadata = uniform_layers(net, options.bits), PackageMetadata(layout.name)
    NetworkPackage(inputs, outputs, options.target, metadata, layers).write(net, path)
    return path, inputs


def uniform_layers(net: nn.Module, bits: int | None) -> dict[str, LayerRecipe]:
    """Every layer of `net` that can be compressed, stored with `bits`; none without."""
    if bits is None:
        return {}
    recipe = Recipe.uniform(bits)
    shapes = {key: tuple(weight.shape) for key, weight in net.state_dict().items()}
    return {layer: recipe.layer("unet", layer) for layer in compressible_layers(shapes)}
