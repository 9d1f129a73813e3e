"""What the Neural Engine rules find in a plain conversion, and in our export of the same networks.

    python benchmarks/lint.py                    a random checkpoint of Stable Diffusion 1.5's shape scaled down
    python benchmarks/lint.py --layout sd15      of full size (minutes, 8 GB of memory, 6 GB of disk)
    python benchmarks/lint.py --bundle BUNDLE    one bundle alone, e.g. the built-in model's

The plain conversion is diffusers' and transformers' networks through torch.jit.trace and coremltools.convert with
nothing chosen but the target; ours is `sfmobile export` with its defaults.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.cli.console import print_table
from sfmobile.export.exporter import export_bundle
from sfmobile.export.options import ExportOptions
from sfmobile.export.quiet import quiet
from sfmobile.inspect.lint.linter import Finding, groups
from sfmobile.inspect.lint.rule import SEVERITIES, rule_book
from sfmobile.inspect.lint.targets import bundle_targets, lint_targets, package_target
from sfmobile.nets.layout import (
    GLYPH_TEACHER_AUTOENCODER,
    GLYPH_TEACHER_UNET,
    GLYPH_TEXT_ENCODER,
    SD15_AUTOENCODER,
    SD15_TEXT_ENCODER,
    SD15_UNET,
)
from sfmobile.testing import write_synthetic_checkpoint

# diffusers' autoencoder has halves of equal width.
AUTOENCODER = replace(GLYPH_TEACHER_AUTOENCODER, encoder_channels=GLYPH_TEACHER_AUTOENCODER.decoder_channels)
LAYOUTS: dict[str, Any] = {
    "glyph-teacher": (GLYPH_TEACHER_UNET, GLYPH_TEXT_ENCODER, AUTOENCODER, (16, 16)),
    "sd15": (SD15_UNET, SD15_TEXT_ENCODER, SD15_AUTOENCODER, (64, 64)),
}


class First(nn.Module):
    """A network of diffusers or transformers that returns its first output alone."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The first output."""
        output: torch.Tensor = self.net(*inputs, return_dict=False)[0]
        return output


class Decode(nn.Module):
    """The decoding half of diffusers' autoencoder."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """The image."""
        image: torch.Tensor = self.net.decode(latents, return_dict=False)[0]
        return image


def plain(checkpoint: Checkpoint, component: str, latent_size: tuple[int, int]) -> tuple[nn.Module, dict[str, Any]]:
    """The network as its own library has it, and example inputs."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    text = checkpoint.text_encoder_layout
    if component == "text_encoder":
        net = CLIPTextModel.from_pretrained(checkpoint.root / "text_encoder", attn_implementation="eager").float()
        return First(net), {"input_ids": torch.zeros(1, text.max_length, dtype=torch.int32)}
    if component == "unet":
        net = UNet2DConditionModel.from_pretrained(checkpoint.root / "unet").float()
        states = torch.zeros(2, text.max_length, text.hidden)
        inputs = {
            "latents": torch.zeros(2, 4, *latent_size),
            "timestep": torch.tensor([500.0, 500.0]),
            "states": states,
        }
        return First(net), inputs
    return Decode(AutoencoderKL.from_pretrained(checkpoint.root / "vae").float()), {
        "latents": torch.zeros(1, 4, *latent_size)
    }


def convert(net: nn.Module, inputs: dict[str, torch.Tensor], path: Path) -> list[Finding]:
    """Findings on the plain conversion."""
    with quiet(), torch.no_grad():
        import coremltools as ct

        trace: Any = torch.jit.trace
        traced = trace(net.eval(), tuple(inputs.values()))
        model = ct.convert(
            traced,
            inputs=[
                ct.TensorType(name, shape=one.shape, dtype=np.int32 if one.dtype == torch.int32 else np.float32)
                for name, one in inputs.items()
            ],
            minimum_deployment_target=ct.target.iOS17,
            skip_model_load=True,
        )
        model.save(str(path))
    return lint_targets([package_target(path)])


def compare(layout: str, components: Sequence[str], folder: Path) -> None:
    """Both exports of a random checkpoint, side by side."""
    unet, text, autoencoder, size = LAYOUTS[layout]
    root = folder / layout
    write_synthetic_checkpoint(
        root, unet_layout=unet, text_encoder_layout=text, autoencoder_layout=autoencoder, latent_size=size
    )
    checkpoint = Checkpoint.open(root)
    start = time.perf_counter()
    bundle = export_bundle(checkpoint, folder / "ours", ExportOptions(components=tuple(components)))  # type: ignore[arg-type]
    ours = lint_targets(bundle_targets(bundle))
    print(f"ours: {time.perf_counter() - start:.0f} s")
    for component in components:
        start = time.perf_counter()
        found = convert(*plain(checkpoint, component, size), folder / f"{component}.mlpackage")
        print(f"plain {component}: {time.perf_counter() - start:.0f} s")
        side_by_side(component, found, [one for one in ours if one.component == component])


def side_by_side(component: str, plain_findings: Sequence[Finding], ours: Sequence[Finding]) -> None:
    """Findings of both by rule."""
    rules = sorted(rule_book().rules, key=lambda rule: -SEVERITIES.index(rule.severity))

    def count(findings: Sequence[Finding], rule: str, excused: bool = False) -> str:
        return str(sum(one.rule == rule and (one.exception is not None) is excused for one in findings) or "-")

    rows = []
    for rule in rules:
        first = next((one.message for one in plain_findings if one.rule == rule.id), "")
        cells = (count(plain_findings, rule.id), count(ours, rule.id), count(ours, rule.id, excused=True))
        if cells != ("-", "-", "-"):
            rows.append((rule.id, rule.severity, *cells, first))
    print_table(
        f"{component}: plain conversion against ours",
        ("rule", "severity", "plain", "ours", "ours, excused", "first in the plain conversion"),
        rows,
        text_columns=(0, 1, 5),
    )


def one_bundle(path: Path) -> None:
    """Findings of a bundle, open and excused."""
    found = groups(lint_targets(bundle_targets(Bundle.open(path, check="sizes"))))
    print_table(
        str(path),
        ("rule", "severity", "package", "count", "excused because"),
        [(one.rule, one.severity, one.package, str(one.count), one.exception or "-") for one in found],
        text_columns=(0, 1, 2, 4),
    )


def main() -> None:
    """Print the findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layout", choices=sorted(LAYOUTS), default="glyph-teacher")
    parser.add_argument("--component", action="append", choices=("text_encoder", "unet", "decoder"))
    parser.add_argument("--bundle", type=Path, help="check this bundle and compare nothing")
    options = parser.parse_args()
    if options.bundle is not None:
        one_bundle(options.bundle)
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(options.layout, options.component or ("text_encoder", "unet", "decoder"), Path(folder))


if __name__ == "__main__":
    main()
