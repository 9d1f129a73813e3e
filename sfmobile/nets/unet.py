"""The conditional UNet, built from a `UNetLayout`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfmobile.nets.attention import pointwise
from sfmobile.nets.layout import Stage, UNetLayout
from sfmobile.nets.resnet import Downsample, ResnetBlock, Upsample
from sfmobile.nets.transformer import CrossAttentionBlock


class Perceptron(nn.Module):
    """Two layers over an embedding: what is added to the time embedding is the pooled text and the sinusoids of
    sizes."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.linear_1 = pointwise(channels, embedding)
        self.linear_2 = pointwise(embedding, embedding)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, 1, 1); returns (B, E, 1, 1)."""
        return self.linear_2(F.silu(self.linear_1(x)))


class TimeEmbedding(Perceptron):
    """The perceptron over the host-computed sinusoid, with the optional guidance-scale projection.

    The sinusoid itself isn't in the graph: in fp16 its sine is off by 0.27 at t = 981.
    """

    def __init__(self, channels: int, embedding: int, guidance_channels: int | None) -> None:
        super().__init__(channels, embedding)
        if guidance_channels is not None:
            self.cond_proj = pointwise(guidance_channels, channels, bias=False)

    def forward(self, sinusoid: Tensor, guidance: Tensor | None) -> Tensor:  # type: ignore[override]
        """sinusoid (B, C, 1, 1), guidance (B, G, 1, 1) or None; returns (B, E, 1, 1)."""
        return super().forward(sinusoid if guidance is None else sinusoid + self.cond_proj(guidance))


class UNetStage(nn.Module):
    """The blocks of one `Stage`, run in its order, with at most one resampling layer at the end."""

    def __init__(
        self, stage: Stage, inputs: list[int], time_channels: int, heads: int, context_channels: int, groups: int
    ) -> None:
        """`inputs` are the input channels of each ResNet (skip connection included)."""
        super().__init__()
        self.stage = stage
        if inputs:
            self.resnets = nn.ModuleList(
                [ResnetBlock(width, stage.channels, groups, time_channels) for width in inputs]
            )
        if stage.attentions:
            self.attentions = nn.ModuleList(
                [
                    CrossAttentionBlock(stage.channels, heads, context_channels, groups, stage.depth(index))
                    for index in range(stage.attentions)
                ]
            )

    def forward(
        self, x: Tensor, time: Tensor, context: Tensor, skips: list[Tensor], gates: list[Tensor] | None, push: bool
    ) -> Tensor:
        """Run the blocks. `push` appends the state behind each ResNet group to `skips` (down side); otherwise each
        ResNet of an up stage consumes one. `gates` is a queue of one gate per block, in running order."""
        order = self.stage.order()
        for position, (kind, index) in enumerate(order):
            gate = gates.pop(0) if gates is not None else None
            if kind == "resnet":
                if not push and skips:
                    x = torch.cat([x, skips.pop()], dim=1)
                x = self.resnets[index](x, time, gate)
            else:
                x = self.attentions[index](x, context, gate)
            ends_group = position + 1 == len(order) or order[position + 1][0] == "resnet"
            if push and ends_group and self.stage.resnets:
                skips.append(x)
        return x


class DownStage(UNetStage):
    """A down stage: pushes one skip per ResNet, then halves unless it is the last."""

    def __init__(self, stage: Stage, in_channels: int, last: bool, **widths: int) -> None:
        inputs = [in_channels if index == 0 else stage.channels for index in range(stage.resnets)]
        super().__init__(stage, inputs, **widths)
        if not last:
            self.downsamplers = nn.ModuleList([Downsample(stage.channels)])


class UpStage(UNetStage):
    """An up stage: consumes one skip per ResNet, then doubles unless it is the last."""

    def __init__(self, stage: Stage, in_channels: int, skips: list[int], last: bool, **widths: int) -> None:
        inputs = [(in_channels if index == 0 else stage.channels) + skip for index, skip in enumerate(skips)]
        super().__init__(stage, inputs, **widths)
        if not last:
            self.upsamplers = nn.ModuleList([Upsample(stage.channels)])


class ContractingPath(nn.Module):
    """A UNet's way down and its middle, which a ControlNet shares. Weight names are diffusers'."""

    def __init__(self, layout: UNetLayout) -> None:
        super().__init__()
        self.layout = layout
        width = layout.down[0].channels
        self.conv_in = nn.Conv2d(layout.in_channels, width, kernel_size=3, padding=1)
        self.time_embedding = TimeEmbedding(width, width * 4, layout.guidance_embedding_dim)
        if layout.added_embedding_dim is not None:
            self.add_embedding = Perceptron(layout.added_embedding_dim, width * 4)
        down_blocks: list[DownStage] = []
        current = width
        for level, stage in enumerate(layout.down):
            last = level == len(layout.down) - 1
            down_blocks.append(DownStage(stage, current, last, **self._widths(level)))
            current = stage.channels
        self.down_blocks = nn.ModuleList(down_blocks)
        bottom = len(layout.down) - 1
        self.mid_block = UNetStage(layout.mid, [layout.mid.channels] * layout.mid.resnets, **self._widths(bottom))

    def _widths(self, level: int) -> dict[str, int]:
        layout = self.layout
        return {
            "time_channels": layout.down[0].channels * 4,
            "heads": layout.heads_at(level),
            "context_channels": layout.cross_attention_dim,
            "groups": layout.norm_groups,
        }

    def embed(self, sinusoid: Tensor, guidance: Tensor | None, added: Tensor | None) -> Tensor:
        """What every ResNet is told: the time and, where the layout has them, the guidance scale and what is added,
        through SiLU (B, E, 1, 1)."""
        time = self.time_embedding(sinusoid, guidance)
        return F.silu(time if added is None else time + self.add_embedding(added))

    def contract(
        self, x: Tensor, time: Tensor, context: Tensor, gates: list[Tensor] | None
    ) -> tuple[Tensor, list[Tensor]]:
        """The middle's state of `x`, which is behind `conv_in`, and the skip connections in the order they are made."""
        skips = [x]
        for block in self.down_blocks:
            x = block(x, time, context, skips, gates, push=True)
            if isinstance(block, DownStage) and hasattr(block, "downsamplers"):
                x = block.downsamplers[0](x)
                skips.append(x)
        # The mid stage neither takes nor leaves skips.
        return self.mid_block(x, time, context, [], gates, push=False), skips


class UNet(ContractingPath):
    """Noise (or v) prediction over latents. Weight names are diffusers' `UNet2DConditionModel`."""

    def __init__(self, layout: UNetLayout) -> None:
        super().__init__(layout)
        bottom = len(layout.down) - 1
        current = layout.down[-1].channels
        skips = [channels for channels, _ in layout.residuals()[:-1]]
        up_blocks: list[UpStage] = []
        for index, stage in enumerate(layout.up):
            taken = [skips.pop() for _ in range(stage.resnets)]
            last = index == len(layout.up) - 1
            up_blocks.append(UpStage(stage, current, taken, last, **self._widths(bottom - index)))
            current = stage.channels
        self.up_blocks = nn.ModuleList(up_blocks)
        width = layout.down[0].channels
        self.conv_norm_out = nn.GroupNorm(layout.norm_groups, width, eps=1e-5)
        self.conv_out = nn.Conv2d(width, layout.out_channels, kernel_size=3, padding=1)

    def forward(
        self,
        latents: Tensor,
        time_embedding: Tensor,
        encoder_hidden_states: Tensor,
        guidance_embedding: Tensor | None = None,
        gates: Tensor | None = None,
    ) -> Tensor:
        """Predict noise or v.

        latents (B, in_channels, H, W); time_embedding (B or 1, C0, 1, 1), the sinusoid of the timestep;
        encoder_hidden_states (B, cross_attention_dim, 1, S); guidance_embedding (B, G, 1, 1) where the layout has
        one; gates (blocks,) or (blocks, B), the factor on each block's residual in `layout.block_names()` order.
        Returns (B, out_channels, H, W).
        """
        time = self.embed(time_embedding, guidance_embedding, None)
        queue = None if gates is None else [gate.reshape(-1, 1, 1, 1) for gate in gates.unbind(0)]
        x, skips = self.contract(self.conv_in(latents), time, encoder_hidden_states, queue)
        return self.expand(x, time, encoder_hidden_states, skips, queue)

    def expand(
        self, x: Tensor, time: Tensor, context: Tensor, skips: list[Tensor], gates: list[Tensor] | None
    ) -> Tensor:
        """The way up from the middle's state, consuming `skips`."""
        for block in self.up_blocks:
            x = block(x, time, context, skips, gates, push=False)
            if isinstance(block, UpStage) and hasattr(block, "upsamplers"):
                x = block.upsamplers[0](x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class ConditionedUNet(UNet):
    """A UNet with further inputs: an added embedding, and what ControlNets give to its skip connections and middle."""

    def forward(  # type: ignore[override]
        self,
        latents: Tensor,
        time_embedding: Tensor,
        encoder_hidden_states: Tensor,
        *others: Tensor,
        guidance_embedding: Tensor | None = None,
        added_embedding: Tensor | None = None,
        **residuals: Tensor,
    ) -> Tensor:
        """As a UNet's; behind its inputs those that the layout has of a guidance embedding (B, G, 1, 1), an added one
        (B, A, 1, 1) and residuals in the order of `UNetLayout.residuals`, by place or by name."""
        rest = [*others, *residuals.values()]
        if self.layout.guidance_embedding_dim is not None and guidance_embedding is None:
            guidance_embedding = rest.pop(0)
        if self.layout.added_embedding_dim is not None and added_embedding is None:
            added_embedding = rest.pop(0)
        time = self.embed(time_embedding, guidance_embedding, added_embedding)
        x, skips = self.contract(self.conv_in(latents), time, encoder_hidden_states, None)
        if self.layout.takes_residuals:
            *given, middle = rest
            skips = [skip + residual for skip, residual in zip(skips, given, strict=True)]
            x = x + middle
        return self.expand(x, time, encoder_hidden_states, skips, None)
