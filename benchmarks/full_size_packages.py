"""Full-size packages of which only the program counts: exported with weights of zeros, which take no memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from sfmobile.bundle.manifest import TensorRecord
from sfmobile.export.network import NetworkPackage
from sfmobile.export.package import PackageMetadata
from sfmobile.export.quiet import quiet
from sfmobile.nets.attention import AttentionForm, set_attention_form
from sfmobile.nets.autoencoder import Decoder
from sfmobile.nets.layout import (
    SD15_AUTOENCODER,
    SD15_TEXT_ENCODER,
    SD15_UNET,
    SNAPFUSION_AUTOENCODER,
    SNAPFUSION_UNET,
    AutoencoderLayout,
    UNetLayout,
)
from sfmobile.nets.text_encoder import TextEncoder
from sfmobile.nets.unet import UNet

TARGET = "ios17"
# Stable Diffusion 2.1's UNet: heads of 64 channels at every resolution, a wider text encoder.
SD21_UNET = replace(SD15_UNET, name="sd21-base", heads=(5, 10, 20, 20), cross_attention_dim=1024)


@dataclass(frozen=True)
class Network:
    """A network and the inputs and outputs it is exported with."""

    build: Callable[[], nn.Module]
    attention: AttentionForm
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]


def _half(name: str, *shape: int) -> TensorRecord:
    return TensorRecord(name=name, shape=shape, dtype="float16")


def _unet(layout: UNetLayout, attention: AttentionForm = "split-einsum-v2") -> Network:
    return Network(
        lambda: UNet(layout),
        attention,
        (
            _half("latents", 2, 4, 64, 64),
            _half("time_embedding", 2, layout.down[0].channels, 1, 1),
            _half("encoder_hidden_states", 2, layout.cross_attention_dim, 1, 77),
        ),
        (_half("model_output", 2, 4, 64, 64),),
    )


def _decoder(layout: AutoencoderLayout) -> Network:
    inputs, outputs = (_half("latents", 1, 4, 64, 64),), (_half("image", 1, 3, 512, 512),)
    return Network(lambda: Decoder(layout), "split-einsum-v2", inputs, outputs)


NETWORKS: dict[str, Network] = {
    "sd15-unet": _unet(SD15_UNET),
    "snapfusion-unet": _unet(SNAPFUSION_UNET),
    "sd21-base-unet": _unet(SD21_UNET),
    "sd21-base-unet-split-einsum": _unet(SD21_UNET, "split-einsum"),
    "sd15-decoder": _decoder(SD15_AUTOENCODER),
    "snapfusion-decoder": _decoder(SNAPFUSION_AUTOENCODER),
    "sd15-text-encoder": Network(
        lambda: TextEncoder(SD15_TEXT_ENCODER),
        "split-einsum",
        (TensorRecord(name="input_ids", shape=(1, 77), dtype="int32"),),
        (_half("encoder_hidden_states", 1, 768, 1, 77),),
    ),
}


def write_zero_package(name: str, path: Path) -> None:
    """Export `NETWORKS[name]` with weights of zeros as the package `path`."""
    network = NETWORKS[name]
    with torch.device("meta"):
        net = network.build()
    for module in net.modules():
        for key, parameter in module.named_parameters(recurse=False):
            zeros = torch.zeros(parameter.shape, dtype=torch.float16)
            setattr(module, key, nn.Parameter(zeros, requires_grad=False))
        for key, buffer in module.named_buffers(recurse=False):
            dtype = torch.float16 if buffer.is_floating_point() else buffer.dtype
            setattr(module, key, torch.zeros(buffer.shape, dtype=dtype))
    set_attention_form(net, network.attention)
    NetworkPackage(network.inputs, network.outputs, TARGET, PackageMetadata(name)).write(net.eval(), path)


def write_resnet50(path: Path) -> None:
    """ResNet-50 (random weights) as a plain conversion gives it: the network of coremltools' own latency tables."""
    from transformers import ResNetConfig, ResNetForImageClassification

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = ResNetForImageClassification(ResNetConfig(return_dict=False)).eval()

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.net(pixels)[0]
            return logits

    with quiet():
        import coremltools as ct

        traced = torch.jit.trace(Logits(), torch.zeros(1, 3, 224, 224))
        model = ct.convert(
            traced,
            inputs=[ct.TensorType(name="pixels", shape=(1, 3, 224, 224))],
            minimum_deployment_target=ct.target.iOS17,
            skip_model_load=True,
        )
        model.save(str(path))
