"""Random checkpoints of any layout, for tests and for benchmarks at full size without a download."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sfmobile.bundle.samplers import SamplerRecord
from sfmobile.checkpoint.description import DEFAULT_GUIDANCE_SCALE, DEFAULT_STEPS
from sfmobile.checkpoint.unwritten import SD15_SCHEDULER as SD15_SCHEDULER
from sfmobile.checkpoint.weights import PartName
from sfmobile.checkpoint.writer import SecondText, Weights, write_parts
from sfmobile.errors import UsageError
from sfmobile.nets.layout import AutoencoderLayout, TextEncoderLayout, UNetLayout

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SHARD_BYTES = 512 << 20


def write_synthetic_checkpoint(
    root: Path,
    *,
    unet_layout: UNetLayout,
    text_encoder_layout: TextEncoderLayout,
    autoencoder_layout: AutoencoderLayout,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    tokenizer_dir: Path | None = None,
    scheduler: SamplerRecord = SD15_SCHEDULER,
    latent_size: tuple[int, int] = (64, 64),
    guidance_scale: float = DEFAULT_GUIDANCE_SCALE,
    default_steps: int = DEFAULT_STEPS,
    encoder: bool = True,
    max_shard_bytes: int = SHARD_BYTES,
    text_encoder_2_layout: TextEncoderLayout | None = None,
    size_dimension: int = 256,
) -> None:
    """Write a checkpoint of random weights (fp16 unless `dtype` says otherwise).

    Each weight depends on `seed` and its name alone and is made when it is written, so full size needs the memory of
    one shard. Norms get random scales and shifts: at 1 and 0 they would fold away and hide mistakes.
    Without `tokenizer_dir` the tokenizer is a byte-level one that fits any vocabulary from 514 tokens on.
    With `text_encoder_2_layout` it is a Stable Diffusion XL, `size_dimension` values of each size's sinusoid; layouts
    of text encoders say what runs, and all that a file holds is written.
    """
    import torch

    from sfmobile.nets.autoencoder import Decoder, Encoder
    from sfmobile.nets.text_encoder import TextEncoder
    from sfmobile.nets.unet import UNet

    text_encoder_layout = as_stored(text_encoder_layout)
    with torch.device("meta"):
        nets: dict[PartName, torch.nn.Module] = {
            "text_encoder": TextEncoder(text_encoder_layout),
            "unet": UNet(unet_layout),
            "decoder": Decoder(autoencoder_layout),
        }
        if encoder:
            nets["encoder"] = Encoder(autoencoder_layout)
        if text_encoder_2_layout is not None:
            nets["text_encoder_2"] = TextEncoder(as_stored(text_encoder_2_layout))
    with tempfile.TemporaryDirectory() as scratch:
        if tokenizer_dir is None:
            tokenizer_dir = Path(scratch)
            write_byte_tokenizer(tokenizer_dir, text_encoder_layout.vocabulary, text_encoder_layout.max_length)
        second = None
        if text_encoder_2_layout is not None:
            folder = Path(scratch) / "second"
            shutil.copytree(tokenizer_dir, folder, ignore=shutil.ignore_patterns("second"))
            _pad_with(folder, "!")
            second = SecondText(as_stored(text_encoder_2_layout), folder, size_dimension)
        write_parts(
            root,
            {part: _random_weights(part, net, seed) for part, net in nets.items()},
            text_encoder_layout=text_encoder_layout,
            unet_layout=unet_layout,
            autoencoder_layout=autoencoder_layout,
            scheduler=scheduler,
            tokenizer_dir=tokenizer_dir,
            latent_size=latent_size,
            guidance_scale=guidance_scale,
            default_steps=default_steps,
            dtype=dtype,
            max_shard_bytes=max_shard_bytes,
            second=second,
        )


def as_stored(layout: TextEncoderLayout) -> TextEncoderLayout:
    """All that the file of a text encoder holds of which `layout` is what runs."""
    layers = layout.layers + (1 if not layout.final_norm and layout.projection is None else 0)
    return replace(layout, layers=layers, final_norm=True, state_layers=None)


def _pad_with(folder: Path, token: str) -> None:
    """Let the tokenizer in `folder` pad with another token, as those of OpenCLIP's text encoders do."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        file = folder / name
        if file.is_file():
            config = json.loads(file.read_text(encoding="utf-8"))
            file.write_text(json.dumps({**config, "pad_token": token}, indent=2), encoding="utf-8")


def _random_weights(part: PartName, net: torch.nn.Module, seed: int) -> Weights:
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    return Weights(shapes, lambda key: random_weight(f"{part}.{key}", shapes[key], seed))


def random_weight(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """A random weight, fp32: kernels as torch initialises them, norms around 1, biases small, embeddings as CLIP's."""
    import torch

    # One 32-bit number of both: torch's CPU generator takes no more than 32 bits of a seed.
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    uniform = torch.empty(shape).uniform_(-1.0, 1.0, generator=generator)
    if len(shape) == 1:
        return 1.0 + 0.3 * uniform if name.endswith(".weight") else 0.1 * uniform
    if "embedding.weight" in name:
        return 0.035 * uniform
    fan_in = int(torch.Size(shape[1:]).numel())
    return uniform / math.sqrt(fan_in)


def write_byte_tokenizer(folder: Path, vocabulary: int, max_length: int = 77) -> None:
    """CLIP tokenizer files without merges: one token per byte, and start and end as the last two ids."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    symbols = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]
    tokens = [*symbols, *(f"{symbol}</w>" for symbol in symbols)]
    if vocabulary < len(tokens) + 2:
        raise UsageError(
            f"A vocabulary of {vocabulary} is too small; the byte-level tokenizer needs {len(tokens) + 2}."
        )
    ids = {token: index for index, token in enumerate(tokens)}
    ids["<|startoftext|>"] = vocabulary - 2
    ids["<|endoftext|>"] = vocabulary - 1
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    names = {"bos_token": "<|startoftext|>"} | dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": max_length, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(names, indent=2), encoding="utf-8")
