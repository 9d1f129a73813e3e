from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from sfmobile.errors import ArtifactError
from sfmobile.train.pretrained.efficientnet_lite import EfficientNetLite0, _SameConv, folded_state


def original_checkpoint() -> dict[str, torch.Tensor]:
    """Random weights under the names of the package's checkpoint."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}

    def layer(conv: str, norm: str, like: nn.Conv2d) -> None:
        out = like.weight.shape[0]
        fan_in = like.weight[0].numel()
        state[f"{conv}.weight"] = torch.randn(like.weight.shape, generator=generator) * (2 / fan_in) ** 0.5
        for name, low in (("weight", 0.5), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 0.5)):
            state[f"{norm}.{name}"] = torch.rand(out, generator=generator) + low

    module = EfficientNetLite0()
    layer("_conv_stem", "_bn0", module.trunk.stem)
    for index, block in enumerate(module.trunk.blocks):
        if block.expand is not None:
            layer(f"_blocks.{index}._expand_conv", f"_blocks.{index}._bn0", block.expand)
        layer(f"_blocks.{index}._depthwise_conv", f"_blocks.{index}._bn1", block.depthwise)
        layer(f"_blocks.{index}._project_conv", f"_blocks.{index}._bn2", block.project)
    layer("_conv_head", "_bn1", module.head)
    return state


def unfolded_features(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The network as published, with its batch norms, from the stage table of the Lite0 builder."""

    def conv_norm(x: torch.Tensor, conv: str, norm: str, stride: int = 1, depthwise: bool = False) -> torch.Tensor:
        weight = state[f"{conv}.weight"]
        total = max((-(-x.shape[-1] // stride) - 1) * stride + weight.shape[-1] - x.shape[-1], 0)
        x = functional.pad(x, [total // 2, total - total // 2] * 2)
        x = functional.conv2d(x, weight, stride=stride, groups=weight.shape[0] if depthwise else 1)
        names = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(state[f"{norm}.{name}"] for name in names), eps=1e-3)

    x = functional.relu6(conv_norm(x, "_conv_stem", "_bn0", 2))
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    for index, stride in enumerate(strides):
        name, before = f"_blocks.{index}", x
        if f"{name}._expand_conv.weight" in state:
            x = functional.relu6(conv_norm(x, f"{name}._expand_conv", f"{name}._bn0"))
        x = functional.relu6(conv_norm(x, f"{name}._depthwise_conv", f"{name}._bn1", stride, depthwise=True))
        x = conv_norm(x, f"{name}._project_conv", f"{name}._bn2")
        if x.shape == before.shape:
            x = x + before
    return functional.relu6(conv_norm(x, "_conv_head", "_bn1")).mean((2, 3))


def test_folded_network_equals_the_published_one() -> None:
    state = original_checkpoint()
    module = EfficientNetLite0()
    module.load_state_dict(folded_state(state))
    images = torch.rand(2, 3, 224, 224) * 2 - 1
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = ((images + 1) / 2 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.inference_mode():
        found, expected = module(images), unfolded_features(state, normalised)
    assert found.shape == (2, 1280)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("size", "pads"), [(8, (0, 1)), (7, (1, 1))], ids=["even", "odd"])
def test_padding_is_tensorflows(size: int, pads: tuple[int, int]) -> None:
    conv = _SameConv(1, 1, 3, 2)
    x = torch.rand(1, 1, size, size)
    expected = functional.conv2d(functional.pad(x, [*pads, *pads]), conv.weight, conv.bias, stride=2)
    torch.testing.assert_close(conv(x), expected)


def test_a_file_without_the_weights_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"stem": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ArtifactError, match="EfficientNet-Lite0"):
        EfficientNetLite0.from_file(tmp_path / "w.safetensors")
