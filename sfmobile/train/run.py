"""A training run in a directory: what its stages left, as networks built by their own records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from sfmobile.bundle.manifest import LatentsRecord
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.nets.autoencoder import Decoder, Encoder
from sfmobile.nets.layout import (
    AUTOENCODER_LAYOUTS,
    GLYPH_TEXT_ENCODER,
    UNET_LAYOUTS,
    AutoencoderLayout,
    TextEncoderLayout,
    UNetLayout,
)
from sfmobile.nets.text_encoder import TextEncoder
from sfmobile.nets.unet import UNet
from sfmobile.train import processes
from sfmobile.train.diffusion import NoiseSchedule
from sfmobile.train.inherit import inherit_weights
from sfmobile.train.latents import LatentPool
from sfmobile.train.loop import STATE
from sfmobile.train.record import POOL, WEIGHTS, StageRecord, UNetRecord, has_record, read_record, save_with_record
from sfmobile.train.state import load_tensors

Layout = TypeVar("Layout")
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Networks:
    """The layouts that a run's settings can name; tests put small ones in."""

    text_encoder: TextEncoderLayout = GLYPH_TEXT_ENCODER
    unets: tuple[UNetLayout, ...] = tuple(UNET_LAYOUTS.values())
    autoencoders: tuple[AutoencoderLayout, ...] = tuple(AUTOENCODER_LAYOUTS.values())

    def autoencoder(self, name: str) -> AutoencoderLayout:
        """The autoencoder layout called `name`."""
        return _named({layout.name: layout for layout in self.autoencoders}, name)


def _named(layouts: Mapping[str, Layout], name: str) -> Layout:
    if name not in layouts:
        raise UsageError(f"Layout '{name}' is unknown; expected one of {', '.join(layouts)}.")
    return layouts[name]


@dataclass(frozen=True)
class TrainedDenoiser:
    """A stage's UNet with what it is sampled with: its text encoder, its noise schedule, the latents that it makes."""

    unet: UNet
    text_encoder: TextEncoder
    schedule: NoiseSchedule
    latents: LatentsRecord


class Run:
    """A training run in a directory, on one device.

    A stage is named by its directory; one of another run that lies inside this one, or is linked there, by both names,
    as `glyph-64/teacher`.
    """

    def __init__(self, root: Path, networks: Networks | None = None, cpu: bool = False) -> None:
        self.root = root
        self.networks = networks or Networks()
        self.cpu = cpu
        self.device = torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu")

    # What stages left -------------------------------------------------------------------------------------------------

    def record(self, stage: str) -> StageRecord:
        """What a stage left. Raises `ArtifactError` if it wasn't run, or by a version that wrote no record."""
        path = self.root / stage / POOL
        return read_record(path if path.exists() else self.root / stage / WEIGHTS)

    def weights(self, stage: str, network: str) -> dict[str, Tensor]:
        """Weights of one of a stage's networks ("unet", "text_encoder", "encoder", "decoder") by parameter."""
        path = self.root / stage / WEIGHTS
        found = load_tensors(path, f"{network}.")[0]
        if not found:
            raise UsageError(f"{path}: expected weights named {network}.*, found none; another stage has them.")
        return found

    def _filled(self, net: Network, stage: str, network: str) -> Network:
        try:
            net.load_state_dict(self.weights(stage, network))
        except RuntimeError as error:
            raise ArtifactError(
                f"'{self.root / stage / WEIGHTS}': expected the {network} of its record, found weights that don't fit "
                f"it ({str(error).splitlines()[-1].strip()}); run the stage again."
            ) from error
        return net

    def _held(self, stage: str, network: str, layout: Layout | None) -> Layout:
        if layout is None:
            raise UsageError(
                f"{self.root / stage}: expected a stage with the weights of its {network}, found one of kind "
                f"'{self.record(stage).kind}' without; another stage has them."
            )
        return layout

    def unet_record(self, stage: str) -> UNetRecord:
        """How to sample with a stage's UNet; `UsageError` if it has none."""
        return self._held(stage, "unet", self.record(stage).unet)

    def trained_unet(self, stage: str, named: str | None = None) -> UNet:
        """A stage's UNet as it was trained. named: the layout that settings say it has; `UsageError` if it hasn't."""
        layout = self.unet_record(stage).layout
        if named is not None and _nameless(layout) != _nameless(self.unet_layout(named)):
            raise UsageError(
                f"{self.root / stage}: expected a UNet of layout '{named}', found '{layout.name}'"
                f"{'' if layout.guidance_embedding_dim is None else ' with guidance as an input'}; name that layout or "
                "another stage."
            )
        return self._filled(UNet(layout), stage, "unet")

    def text_encoder(self, stage: str) -> TextEncoder:
        """The text encoder that a stage trained."""
        layout = self._held(stage, "text_encoder", self.record(stage).text_encoder)
        return self._filled(TextEncoder(layout), stage, "text_encoder")

    def text_encoder_of(self, stage: str) -> str:
        """The stage whose text encoder goes with the UNet of `stage`: itself where it trained one."""
        other = self.unet_record(stage).text_encoder_from
        # Named as in the run that the stage belongs to, which may lie inside this one.
        return stage if other is None else (Path(stage).parent / other).as_posix()

    def encoder(self, stage: str, named: str | None = None) -> Encoder:
        """The image encoder that a stage trained. named: as for `trained_unet`."""
        layout = self._half(stage, "encoder", self.record(stage).encoder, named)
        return self._filled(Encoder(layout), stage, "encoder")

    def decoder(self, stage: str, named: str | None = None) -> Decoder:
        """The image decoder that a stage trained. named: as for `trained_unet`."""
        layout = self._half(stage, "decoder", self.record(stage).decoder, named)
        return self._filled(Decoder(layout), stage, "decoder")

    def _half(self, stage: str, half: str, held: AutoencoderLayout | None, named: str | None) -> AutoencoderLayout:
        """The layout of one half of an autoencoder; nothing but that half of it counts, and the scaling factor is the
        stage's own: it normalises its latents whatever a layout's name stands for."""
        layout = self._held(stage, half, held)

        def widths(of: AutoencoderLayout) -> tuple[object, ...]:
            return getattr(of, f"{half}_channels"), of.latent_channels, of.layers_per_block, of.norm_groups

        if named is not None and widths(layout) != widths(self.networks.autoencoder(named)):
            raise UsageError(
                f"{self.root / stage}: expected the {half} of layout '{named}', found that of '{layout.name}'; name "
                "that layout or another stage."
            )
        return layout

    def denoiser(self, stage: str) -> TrainedDenoiser:
        """A stage's UNet with what it is sampled with, on the device."""
        record = self.unet_record(stage)
        return TrainedDenoiser(
            self.trained_unet(stage).to(self.device).eval(),
            self.text_encoder(self.text_encoder_of(stage)).to(self.device).eval(),
            NoiseSchedule(record.schedule, record.layout.down[0].channels).to(self.device),
            record.latents,
        )

    def pool(self, stage: str = "latents") -> LatentPool:
        """The latent pool of a stage, on the run's device."""
        return LatentPool.load(self.root / stage / POOL, self.device)

    def pool_record(self, stage: str = "latents") -> LatentsRecord:
        """What the latents of a stage's pool are."""
        return self._held(stage, "latents", self.record(stage).latents)

    # Networks to train ------------------------------------------------------------------------------------------------

    def unet_layout(self, name: str) -> UNetLayout:
        """The UNet layout called `name`: a known one, or that of the stage of this name, as an evolution's."""
        known = {layout.name: layout for layout in self.networks.unets}
        if name not in known and has_record(self.root / name / WEIGHTS):
            return self.unet_record(name).layout
        return _named(known, name)

    def new_unet(self, layout: UNetLayout, start: str | None) -> UNet:
        """A UNet of `layout` to train, with the weights of stage `start`, block by block where its layout differs."""
        net = UNet(layout)
        _zero_residual_outputs(net)
        if start is None:
            return net
        source = self.trained_unet(start)
        if _nameless(source.layout) == _nameless(layout):
            net.load_state_dict(source.state_dict())
            return net
        if source.layout.guidance_embedding_dim is not None:
            raise UsageError(
                f"{self.root / start}: its UNet has guidance as an input, so it can't start '{layout.name}' without; "
                "name another stage."
            )
        inherit_weights(source, net)
        return net

    def new_text_encoder(self, token_embedding: Tensor | None) -> TextEncoder:
        """A text encoder to train, with its token embedding (vocabulary, hidden) if one is given."""
        net = TextEncoder(self.networks.text_encoder)
        _initialise_text_encoder(net)
        if token_embedding is not None:
            with torch.no_grad():
                net.token_embedding.weight.copy_(token_embedding.float())
        return net

    # What a stage leaves ----------------------------------------------------------------------------------------------

    def is_done(self, stage: str, result: str) -> bool:
        """Whether a stage left its result, with a record.

        Raises `ArtifactError` for a result without one that can't be written anew, because the stage's last checkpoint
        is gone: to train it again from its start is for a person to decide.
        """
        path = self.root / stage / result
        if path.exists() and not has_record(path) and result == WEIGHTS and not path.with_name(STATE).exists():
            raise ArtifactError(
                f"'{path}' has no record of its networks, and no {STATE} beside it to write it from: expected one or "
                "the other; move the file away to train the stage again."
            )
        return has_record(path)

    def leave(self, stage: str, tensors: Mapping[str, Tensor], record: StageRecord) -> None:
        """Write a stage's weights and record in one commit; every process comes here, the first writes."""
        if processes.rank() == 0:
            save_with_record(self.root / stage / WEIGHTS, tensors, record)
        processes.wait()


def _nameless(layout: UNetLayout) -> UNetLayout:
    return replace(layout, name="")


def _initialise_text_encoder(net: TextEncoder) -> None:
    """CLIP's initial scales: embeddings at 0.02 and 0.01, residual projections shrunk with depth."""
    with torch.no_grad():
        nn.init.normal_(net.token_embedding.weight, std=0.02)
        nn.init.normal_(net.position_embedding.weight, std=0.01)
        for name, parameter in net.layers.named_parameters():
            if name.endswith(("to_out.0.weight", "fc2.weight")):
                parameter.mul_((2 * len(net.layers)) ** -0.5)


def _zero_residual_outputs(net: UNet) -> None:
    """Each block starts as the identity, and the network at zero: the usual start of diffusion UNets."""
    with torch.no_grad():
        for name, module in net.named_modules():
            if isinstance(module, nn.Conv2d) and name.endswith((".conv2", ".proj_out")):
                module.weight.zero_()
        net.conv_out.weight.zero_()
        if net.layout.guidance_embedding_dim is not None:
            net.time_embedding.cond_proj.weight.zero_()
