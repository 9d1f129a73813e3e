"""Whole networks: our exporter's packages, and stock transformers and diffusers modules through coremltools."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch

from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import ComponentName
from sfmobile.bundle.pipeline import TEXT_TO_IMAGE
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.export.options import ExportOptions
from sfmobile.mlpackage.program import load_program
from sfmobile.mlpackage.rewriting import rewrite
from sfmobile.runtime.mil.evaluate import Evaluator
from sfmobile.runtime.mil.fusion import FUSIONS
from sfmobile.runtime.opening import open_runtime
from tests.exported import SharedExports
from tests.runtime.mil.programs import psnr
from tests.runtime.test_torch import inputs_of

FORMS = {
    "ios16 original": ExportOptions(target="ios16", attention="original", latent_size=(8, 16)),
    "ios18 split-einsum-v2": ExportOptions(target="ios18", attention="split-einsum-v2", latent_size=(8, 16)),
}
# What of each network is one call in fp32 evaluation: every group norm and every attention.
FUSED: dict[tuple[str, ComponentName], dict[str, int]] = {
    ("ios16 original", "text_encoder"): {"fused.attention": 2},
    ("ios16 original", "unet"): {"fused.group_norm": 21, "fused.attention": 8},
    ("ios16 original", "decoder"): {"fused.group_norm": 14, "fused.attention": 1},
    ("ios18 split-einsum-v2", "text_encoder"): {"fused.split_attention": 2},
    ("ios18 split-einsum-v2", "unet"): {"fused.group_norm": 21, "fused.split_attention": 8},
    ("ios18 split-einsum-v2", "decoder"): {"fused.group_norm": 14, "fused.split_attention": 1},
}


@pytest.fixture(scope="module")
def bundles(tiny_exports: SharedExports) -> dict[str, Bundle]:
    return {form: tiny_exports(options) for form, options in FORMS.items()}


@pytest.mark.parametrize("name", TEXT_TO_IMAGE)
@pytest.mark.parametrize("form", FORMS)
def test_our_exports_equal_the_reference(
    bundles: dict[str, Bundle], tiny_checkpoint: Checkpoint, form: str, name: ComponentName
) -> None:
    bundle = bundles[form]
    inputs = inputs_of(bundle, name)
    (reference,) = open_runtime("torch", bundle, source=tiny_checkpoint).load(name).predict(inputs).values()
    (wide,) = open_runtime("mil", bundle).load(name).predict(inputs).values()
    (half,) = open_runtime("mil", bundle, precision="fp16").load(name).predict(inputs).values()
    assert psnr(wide, reference) > 100
    assert psnr(half, reference) > 60


@pytest.mark.parametrize("name", TEXT_TO_IMAGE)
@pytest.mark.parametrize("form", FORMS)
def test_our_exports_translated_to_onnx_agree_with_the_evaluator(
    bundles: dict[str, Bundle], form: str, name: ComponentName
) -> None:
    inputs = inputs_of(bundles[form], name)
    (evaluated,) = open_runtime("mil", bundles[form]).load(name).predict(inputs).values()
    (translated,) = open_runtime("onnx", bundles[form]).load(name).predict(inputs).values()
    assert psnr(translated, evaluated) > 100


@pytest.mark.parametrize("name", TEXT_TO_IMAGE)
@pytest.mark.parametrize("form", FORMS)
def test_every_norm_and_attention_of_our_exports_is_fused(
    bundles: dict[str, Bundle], form: str, name: ComponentName
) -> None:
    program = load_program(bundles[form].package(name))
    kinds = Counter(operation.kind for operation in rewrite(program, FUSIONS).operations)
    assert {kind: count for kind, count in kinds.items() if kind.startswith("fused.")} == FUSED[form, name]
    assert not {"instance_norm", "einsum", "matmul"} & set(kinds)


def clip() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=500, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    config._attn_implementation = "sdpa"
    net = CLIPTextModel(config)

    class LastHidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            hidden: torch.Tensor = self.net(input_ids)[0]
            return hidden

    return LastHidden(), {"input_ids": torch.randint(0, 500, (1, 77), dtype=torch.int32)}


def unet() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    from diffusers import UNet2DConditionModel

    net = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        # One transformer block of a level and one of the middle have every operation of the others.
        up_block_types=("UpBlock2D", "UpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=8,
        norm_num_groups=8,
    )

    class Sample(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, sample: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.net(sample, timestep, context, return_dict=False)[0]
            return out

    sample = {"sample": torch.randn(2, 4, 16, 16), "timestep": torch.tensor([3.0, 981.0])}
    return Sample(), {**sample, "context": torch.randn(2, 77, 24)}


def decoder() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    from diffusers.models.autoencoders.vae import Decoder

    net = Decoder(
        in_channels=4,
        out_channels=3,
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
    )
    return net, {"sample": torch.randn(1, 4, 8, 8)}


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
@pytest.mark.parametrize("make", [clip, unet, decoder])
def test_stock_modules_through_coremltools_equal_torch(make: Any, target: str, tmp_path: Path) -> None:
    """Unpatched modules, jit-traced, with stock conversion and its own float16 pass.

    The UNet computes its sinusoid in the graph, from frequencies rounded to float16: that is what limits it.
    """
    torch.manual_seed(0)
    net, inputs = make()
    for name, parameter in net.named_parameters():
        # Fresh affines (1 and 0) would fold away.
        if parameter.dim() == 1:
            parameter.data.add_(0.2 * torch.randn_like(parameter))
        # Weights that float16 holds, so that only the evaluation differs.
        parameter.data = parameter.data.half().float()
        assert name
    net.eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = net(*inputs.values()).numpy()
        traced = torch.jit.trace(net, tuple(inputs.values()))
    types = {torch.int32: np.int32, torch.float32: np.float32}
    model = ct.convert(
        traced,
        inputs=[
            ct.TensorType(name=name, shape=value.shape, dtype=types[value.dtype]) for name, value in inputs.items()
        ],
        outputs=[ct.TensorType(name="out")],
        minimum_deployment_target=getattr(ct.target, target),
        compute_precision=ct.precision.FLOAT16,
        skip_model_load=True,
    )
    path = tmp_path / "stock.mlpackage"
    model.save(str(path))
    fed = {name: value.numpy() for name, value in inputs.items()}
    program = load_program(path)
    for evaluator, gate in (
        (Evaluator(program), 55 if make is unet else 75),
        (Evaluator(program, fuse=False), 55 if make is unet else 75),
        (Evaluator(program, "fp16"), 45 if make is unet else 60),
    ):
        assert psnr(evaluator(fed)["out"], expected) > gate
