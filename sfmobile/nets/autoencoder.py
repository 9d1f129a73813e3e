"""The KL autoencoder's two halves, each usable alone: a phone ships the decoder.

SDXL's reaches beyond float16's 65,504 between its norms, in the way up of the decoder above all, and a picture of such
numbers is black. A layout's `activation_scale` s makes everything there s times as large, exactly: a GroupNorm doesn't
see a factor if its epsilon has the factor's square, and every convolution but the last is in front of one. The factor
is in the weights (`weight_scale`), so the program has no operation more.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from sfmobile.nets.attention import Attention, pointwise
from sfmobile.nets.layout import AutoencoderLayout
from sfmobile.nets.resnet import Downsample, ResnetBlock, Upsample

NORM_EPS = 1e-6
# Convolutions by what they read: behind a norm, their result has the scale from weight and bias; the others read what
# has it already, and only the bias is to follow. All else (queries, keys, values, the convolutions at both ends of the
# latents and the last one) is neither read nor made at that scale.
BEHIND_NORM = ("conv_in", "conv1", "conv2", "to_out.0")
ON_SCALED = ("conv_shortcut", "upsamplers.0.conv", "downsamplers.0.conv")


def weight_scale(key: str, activation_scale: float) -> float:
    """The factor on the stored weight `key` of an `Encoder` or `Decoder` whose layout has this activation scale."""
    module, _, leaf = key.rpartition(".")
    scaled = module.endswith(BEHIND_NORM) or (module.endswith(ON_SCALED) and leaf == "bias")
    return activation_scale if scaled else 1.0


def norm_eps(layout: AutoencoderLayout) -> float:
    """Epsilon of every norm: variances have the square of the activations' scale."""
    return NORM_EPS * layout.activation_scale**2


class PixelAttention(nn.Module):
    """Single-head self-attention over the pixels of (B, C, H, W), around a residual."""

    def __init__(self, channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=eps)
        self.attention = Attention(channels, heads=1, qkv_bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), same shape out."""
        batch, channels, height, width = x.shape
        hidden = self.group_norm(x).reshape(batch, channels, 1, height * width)
        return x + self.attention(hidden).reshape(batch, channels, height, width)


class MidBlock(nn.Module):
    """ResNet, pixel attention, ResNet at the lowest resolution."""

    def __init__(self, channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock(channels, channels, groups, eps=eps) for _ in range(2)])
        self.attentions = nn.ModuleList([PixelAttention(channels, groups, eps)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), same shape out."""
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class ResampleStage(nn.Module):
    """ResNets of one width, then an optional resampling layer."""

    def __init__(
        self, in_channels: int, channels: int, resnets: int, groups: int, eps: float, resample: nn.Module | None
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            [
                ResnetBlock(in_channels if index == 0 else channels, channels, groups, eps=eps)
                for index in range(resnets)
            ]
        )
        if isinstance(resample, Downsample):
            self.downsamplers = nn.ModuleList([resample])
        elif resample is not None:
            self.upsamplers = nn.ModuleList([resample])

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, channels, H', W')."""
        for resnet in self.resnets:
            x = resnet(x)
        for name in ("downsamplers", "upsamplers"):
            if hasattr(self, name):
                x = getattr(self, name)[0](x)
        return x


class Encoder(nn.Module):
    """Image to the moments of the latent posterior. Includes the `quant_conv`."""

    def __init__(self, layout: AutoencoderLayout) -> None:
        super().__init__()
        self.layout = layout
        widths, groups, eps = layout.encoder_channels, layout.norm_groups, norm_eps(layout)
        self.conv_in = nn.Conv2d(3, widths[0], kernel_size=3, padding=1)
        stages = []
        for level, width in enumerate(widths):
            last = level == len(widths) - 1
            resample = None if last else Downsample(width, asymmetric=True)
            stages.append(
                ResampleStage(widths[max(level - 1, 0)], width, layout.layers_per_block, groups, eps, resample)
            )
        self.down_blocks = nn.ModuleList(stages)
        self.mid_block = MidBlock(widths[-1], groups, eps)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=eps)
        self.conv_out = nn.Conv2d(widths[-1], 2 * layout.latent_channels, kernel_size=3, padding=1)
        self.quant_conv = pointwise(2 * layout.latent_channels, 2 * layout.latent_channels)

    def forward(self, image: Tensor) -> Tensor:
        """image (B, 3, H, W) in [-1, 1]; returns mean and log-variance (B, 2 * latent_channels, H/f, W/f), unscaled."""
        x = self.conv_in(image)
        for stage in self.down_blocks:
            x = stage(x)
        x = self.mid_block(x)
        return self.quant_conv(self.conv_out(F.silu(self.conv_norm_out(x))))


class Decoder(nn.Module):
    """Latents to image. Includes the `post_quant_conv`; the division by the scaling factor is the host's."""

    def __init__(self, layout: AutoencoderLayout) -> None:
        super().__init__()
        self.layout = layout
        widths, groups, eps = layout.decoder_channels, layout.norm_groups, norm_eps(layout)
        self.post_quant_conv = pointwise(layout.latent_channels, layout.latent_channels)
        self.conv_in = nn.Conv2d(layout.latent_channels, widths[-1], kernel_size=3, padding=1)
        self.mid_block = MidBlock(widths[-1], groups, eps)
        rising = tuple(reversed(widths))
        stages = []
        for level, width in enumerate(rising):
            last = level == len(rising) - 1
            resample = None if last else Upsample(width)
            stages.append(
                ResampleStage(rising[max(level - 1, 0)], width, layout.layers_per_block + 1, groups, eps, resample)
            )
        self.up_blocks = nn.ModuleList(stages)
        self.conv_norm_out = nn.GroupNorm(groups, widths[0], eps=eps)
        self.conv_out = nn.Conv2d(widths[0], 3, kernel_size=3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """latents (B, latent_channels, h, w) already divided by the scaling factor; returns (B, 3, f*h, f*w), about
        [-1, 1] and not clamped."""
        x = self.mid_block(self.conv_in(self.post_quant_conv(latents)))
        for stage in self.up_blocks:
            x = stage(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))
