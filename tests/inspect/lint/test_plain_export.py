"""What the rules catch in a plain conversion of the same networks by diffusers, transformers and coremltools."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.export.quiet import quiet
from sfmobile.inspect.lint.linter import Finding
from sfmobile.inspect.lint.targets import lint_targets, package_target


def converted(module: torch.nn.Module, inputs: dict[str, torch.Tensor], path: Path) -> list[Finding]:
    """Findings on the usual way: torch.jit.trace and ct.convert, nothing chosen but the target."""
    with quiet():
        import coremltools as ct

        traced = torch.jit.trace(module.eval(), tuple(inputs.values()))
        types = [
            ct.TensorType(name=name, shape=value.shape, dtype=np.int32 if value.dtype == torch.int32 else np.float32)
            for name, value in inputs.items()
        ]
        target = ct.target.iOS16
        ct.convert(traced, inputs=types, minimum_deployment_target=target, skip_model_load=True).save(str(path))
    return lint_targets([package_target(path)])


class First(torch.nn.Module):
    """A model of diffusers or transformers that returns its first output alone."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.net(*inputs, return_dict=False)[0]


@pytest.fixture(scope="module")
def unet_findings(tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> list[Finding]:
    from diffusers import UNet2DConditionModel

    net = First(UNet2DConditionModel.from_pretrained(tiny_checkpoint.root / "unet").float())
    inputs = {
        "latents": torch.zeros(2, 4, 8, 8),
        "timestep": torch.tensor([500.0, 500.0]),
        "states": torch.zeros(2, 77, 32),
    }
    return converted(net, inputs, tmp_path_factory.mktemp("plain") / "unet.mlpackage")


def blocks_with(findings: list[Finding], rule: str) -> set[str]:
    return {finding.block for finding in findings if finding.rule == rule}


def test_the_sinusoid_in_the_graph_is_found(unet_findings: list[Finding]) -> None:
    kinds = {finding.kind for finding in unet_findings if finding.rule == "cpu-operation"}
    assert {"sin", "cos"} <= kinds
    assert blocks_with(unet_findings, "cpu-operation") == {"time_embedding"}


def test_every_group_norm_lowered_to_squares_is_found(
    unet_findings: list[Finding], tiny_checkpoint: Checkpoint
) -> None:
    layout = tiny_checkpoint.unet_layout
    blocks = layout.block_names()
    found = [finding for finding in unet_findings if finding.rule == "normalisation-overflow"]
    # Two in a ResNet block, one in an attention block, one at the end.
    assert len(found) == sum(2 if "resnets" in block else 1 for block in blocks) + 1
    assert set(blocks) <= {finding.block for finding in found}


def test_attention_over_all_heads_and_channels_last_projections_are_found(
    unet_findings: list[Finding], tiny_checkpoint: Checkpoint
) -> None:
    attentions = {block for block in tiny_checkpoint.unet_layout.block_names() if "attentions" in block}
    assert blocks_with(unet_findings, "whole-attention") == attentions
    assert attentions <= blocks_with(unet_findings, "channels-last-layout")


def test_the_infinite_mask_of_clip_is_an_error(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    from transformers import CLIPTextModel

    root = tiny_checkpoint.root / "text_encoder"
    net = CLIPTextModel.from_pretrained(root, attn_implementation="eager").float()
    ids = torch.zeros(1, 77, dtype=torch.int32)
    findings = converted(First(net), {"input_ids": ids}, tmp_path / "text.mlpackage")
    (mask,) = [finding for finding in findings if finding.rule == "infinite-constant"]
    assert mask.severity == "error"
    # The upper triangle of 77 x 77.
    assert "2926 infinite or NaN values" in mask.message
