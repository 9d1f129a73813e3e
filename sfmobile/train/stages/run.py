"""The recipe's stages, each from the files of earlier stages to its own: RUN/<stage>/weights.safetensors.

autoencoder -> latents -> teacher -> efficient -> decoder -> steps... -> assemble (a diffusers-format checkpoint)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from sfmobile.errors import UsageError
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
from sfmobile.train.config import LoopConfig, read_config
from sfmobile.train.diffusion import NoiseSchedule
from sfmobile.train.glyph import SCHEDULES
from sfmobile.train.inherit import inherit_weights
from sfmobile.train.latents import LatentPool
from sfmobile.train.loop import Observer, Stage, TrainingLoop
from sfmobile.train.sampler import fresh_noise, sample_latents
from sfmobile.train.stages.autoencoder import (
    AutoencoderConfig,
    AutoencoderObjective,
    AutoencoderStage,
    normalise_latents,
)
from sfmobile.train.stages.decoder import DecoderConfig, DecoderObjective, DecoderStage
from sfmobile.train.stages.denoiser import DenoiserConfig, DenoiserObjective, DenoiserStage
from sfmobile.train.stages.steps import GUIDANCE_CHANNELS, StepConfig, StepObjective, StepStage
from sfmobile.train.state import load_tensors, save_tensors

if TYPE_CHECKING:
    from sfmobile.train.pictures import Pictures

# (done, total) of a long loop that isn't training.
Count = Callable[[int, int], None]


@dataclass(frozen=True)
class LatentsConfig:
    """A latent pool: how many compositions to encode, from which seed; pictures: settings file of the selection."""

    count: int
    pictures: str = "pictures"
    layout: str = "glyph-teacher"
    batch_size: int = 256
    seed: int = 1000


@dataclass(frozen=True)
class Networks:
    """The networks a run trains; tests put small ones in."""

    text_encoder: TextEncoderLayout = GLYPH_TEXT_ENCODER
    unets: tuple[UNetLayout, ...] = tuple(UNET_LAYOUTS.values())
    autoencoders: tuple[AutoencoderLayout, ...] = tuple(AUTOENCODER_LAYOUTS.values())

    def unet(self, name: str) -> UNetLayout:
        """The UNet layout called `name`."""
        return _named({layout.name: layout for layout in self.unets}, name)

    def autoencoder(self, name: str) -> AutoencoderLayout:
        """The autoencoder layout called `name`."""
        return _named({layout.name: layout for layout in self.autoencoders}, name)


Layout = TypeVar("Layout")


def _named(layouts: Mapping[str, Layout], name: str) -> Layout:
    if name not in layouts:
        raise UsageError(f"Layout '{name}' is unknown; expected one of {', '.join(layouts)}.")
    return layouts[name]


def evolved_layouts(root: Path) -> tuple[UNetLayout, ...]:
    """Layouts that evolutions in a run ended with, called as their directories."""
    return tuple(read_config(UNetLayout, path) for path in sorted(root.glob("*/layout.json")))


class Run:
    """A training run in a directory: builds networks from earlier stages' files and runs one stage at a time.

    A stage is named by its directory; one of another run that lies inside this one, or is linked there, by both names,
    as `glyph-64/teacher`.
    """

    def __init__(
        self,
        root: Path,
        networks: Networks | None = None,
        observer: Observer | None = None,
        cpu: bool = False,
        text_encoder_from: str = "teacher",
    ) -> None:
        """`text_encoder_from`: the stage whose text encoder goes with UNets of stages that trained none."""
        self.root = root
        self.text_encoder_from = text_encoder_from
        known = networks or Networks()
        self.networks = replace(known, unets=(*known.unets, *evolved_layouts(root)))
        self.observer = observer
        self.cpu = cpu
        self.device = torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu")

    # Networks as earlier stages left them -------------------------------------------------------------------------

    def weights(self, stage: str, *prefixes: str) -> dict[str, Tensor]:
        """Weights of a stage under the first of `prefixes` that it has, without the prefix."""
        path = self.root / stage / "weights.safetensors"
        tensors, _ = load_tensors(path)
        for prefix in prefixes:
            found = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            if found:
                return found
        raise UsageError(
            f"{path}: expected weights named {' or '.join(prefixes)}*, found none; another stage has them."
        )

    def text_encoder(self, stage: str | None) -> TextEncoder:
        """The text encoder a stage trained, or a fresh one with the token embedding made beforehand, if any."""
        net = TextEncoder(self.networks.text_encoder)
        if stage is not None:
            net.load_state_dict(self.weights(stage, "text_encoder."))
            return net
        _initialise_text_encoder(net)
        start = self.root / "token_init.safetensors"
        if start.exists():
            tensors, _ = load_tensors(start)
            with torch.no_grad():
                net.token_embedding.weight.copy_(tensors["token_embedding"].float())
        return net

    def unet(self, layout: str, stage: str | None, guidance_conditioned: bool = False) -> UNet:
        """A UNet of `layout`, with a stage's weights (inherited block by block where the layouts differ)."""
        chosen = self.networks.unet(layout)
        if guidance_conditioned:
            chosen = replace(chosen, guidance_embedding_dim=GUIDANCE_CHANNELS)
        net = UNet(chosen)
        _zero_residual_outputs(net)
        if stage is None:
            return net
        weights = self.weights(stage, "unet.", "student.")
        if {k: v.shape for k, v in weights.items()} == {k: v.shape for k, v in net.state_dict().items()}:
            net.load_state_dict(weights)
            return net
        for candidate in self.networks.unets:
            source = UNet(candidate)
            if {k: v.shape for k, v in weights.items()} == {k: v.shape for k, v in source.state_dict().items()}:
                source.load_state_dict(weights)
                inherit_weights(source, net)
                return net
        raise UsageError(f"{self.root / stage}: its UNet fits none of the known layouts; it can't start '{layout}'.")

    def autoencoder(self, layout: str, stage: str | None = "autoencoder") -> tuple[Encoder, Decoder]:
        """Encoder and decoder, with a stage's weights."""
        chosen = self.networks.autoencoder(layout)
        encoder, decoder = Encoder(chosen), Decoder(chosen)
        if stage is not None:
            encoder.load_state_dict(self.weights(stage, "encoder."))
            decoder.load_state_dict(self.weights(stage, "decoder."))
        return encoder, decoder

    def autoencoder_from(self, layout: str, encoder_stage: str, decoder_stage: str) -> tuple[Encoder, Decoder]:
        """An autoencoder whose halves come from different stages, as behind a distilled decoder."""
        encoder, decoder = self.autoencoder(layout, None)
        encoder.load_state_dict(self.weights(encoder_stage, "encoder."))
        decoder.load_state_dict(self.weights(decoder_stage, "decoder.", "student."))
        return encoder, decoder

    def schedule(self, name: str, unet: UNetLayout) -> NoiseSchedule:
        """A noise schedule by name, with the sinusoids of `unet`."""
        if name not in SCHEDULES:
            raise UsageError(f"Noise schedule '{name}' is unknown; expected one of {', '.join(SCHEDULES)}.")
        return NoiseSchedule(SCHEDULES[name], unet.down[0].channels)

    def pool(self, name: str = "latents") -> LatentPool:
        """The latent pool of stage `name`, on the run's device."""
        return LatentPool.load(self.root / name / "pool.safetensors", self.device)

    # Stages ---------------------------------------------------------------------------------------------------------

    def _train(self, stage: Stage, loop: LoopConfig, name: str) -> dict[str, Tensor]:
        return TrainingLoop(stage, loop, self.root / name, self.observer, cpu=self.cpu).run()

    def run_autoencoder(
        self, config: AutoencoderConfig, pictures: Pictures, perceptual: nn.Module | None, name: str = "autoencoder"
    ) -> None:
        """Train the autoencoder, then normalise its latents to unit deviation."""
        layout = self.networks.autoencoder(config.layout)

        def images(index: int, batch_size: int, seed: int, device: torch.device) -> Tensor:
            return pictures.batch(index, batch_size, seed)[0].to(device)

        start = self.autoencoder(config.layout, config.start_from)
        objective = AutoencoderObjective(*start, perceptual, config)
        stage = AutoencoderStage(name, config, objective, images, pictures.side // layout.downsampling)
        weights = self._train(stage, config.loop, name)
        encoder, decoder = Encoder(layout), Decoder(layout)
        encoder.load_state_dict({k.removeprefix("encoder."): v for k, v in weights.items() if k.startswith("encoder.")})
        decoder.load_state_dict({k.removeprefix("decoder."): v for k, v in weights.items() if k.startswith("decoder.")})
        encoder.to(self.device).eval()
        means, stds = self._latent_statistics(encoder, images, config.loop.batch_size)
        normalise_latents(encoder.cpu(), decoder, means.cpu(), stds.cpu())
        tensors = {f"encoder.{k}": v for k, v in encoder.state_dict().items()}
        tensors |= {f"decoder.{k}": v for k, v in decoder.state_dict().items()}
        save_tensors(self.root / name / "weights.safetensors", tensors, {"latents": "normalised"})

    @torch.no_grad()
    def _latent_statistics(
        self, encoder: Encoder, images: Callable[[int, int, int, torch.device], Tensor], batch_size: int
    ) -> tuple[Tensor, Tensor]:
        """Mean and deviation per channel of the posterior mean over about 2,000 compositions."""
        rows = []
        for index in range(max(1, 2048 // batch_size)):
            mean, _ = encoder(images(index, batch_size, 7, self.device)).float().chunk(2, dim=1)
            rows.append(mean.transpose(0, 1).flatten(1))
        values = torch.cat(rows, dim=1)
        return values.mean(dim=1), values.std(dim=1)

    @torch.no_grad()
    def run_latents(
        self, config: LatentsConfig, pictures: Pictures, count: Count | None = None, name: str = "latents"
    ) -> None:
        """Encode compositions and tokenise their captions into RUN/<name>/pool.safetensors."""
        from sfmobile.train.data.tokens import CaptionTokenizer

        path = self.root / name / "pool.safetensors"
        if path.exists():
            return
        encoder = self.autoencoder(config.layout)[0].to(self.device).eval()
        encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        tokenizer = CaptionTokenizer(self.networks.text_encoder.max_length)
        latents, ids = [], []
        batches = -(-config.count // config.batch_size)
        for index in range(batches):
            images, captions = pictures.batch(index, config.batch_size, config.seed)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                mean = encoder(images.to(self.device)).chunk(2, dim=1)[0]
            latents.append(mean.half())
            ids.append(torch.as_tensor(tokenizer.encode_batch(captions)).int())
            if count is not None:
                count(index + 1, batches)
        empty = torch.as_tensor(tokenizer.encode_batch([""])).int()[0]
        LatentPool(torch.cat(latents), torch.cat(ids), empty).save(path)

    def run_denoiser(self, name: str, config: DenoiserConfig) -> None:
        """Train a denoiser: the teacher, or the efficient UNet started from it."""
        unet = self.unet(config.unet, config.unet_from)
        text_encoder = self.text_encoder(config.text_encoder_from)
        schedule = self.schedule(config.schedule, unet.layout)
        objective = DenoiserObjective(text_encoder, unet, schedule, config.snr_gamma)
        self._train(DenoiserStage(name, config, objective, self.pool(config.pool)), config.loop, name)

    def run_decoder(self, name: str, config: DecoderConfig, perceptual: nn.Module | None) -> None:
        """Distil the half-width decoder on the text-to-image model's own latents."""
        latents = self._sampled_latents(name, config)
        teacher = self.autoencoder(config.teacher_layout)[1].eval()
        student = Decoder(self.networks.autoencoder(config.layout))
        if config.start_from is not None:
            student.load_state_dict(self.weights(config.start_from, "decoder.", "student."))
        objective = DecoderObjective(teacher, student, perceptual, config.perceptual_weight)
        self._train(DecoderStage(name, config, objective, latents), config.loop, name)

    @torch.no_grad()
    def _sampled_latents(self, name: str, config: DecoderConfig) -> Tensor:
        path = self.root / name / "latents.safetensors"
        if path.exists():
            return load_tensors(path)[0]["latents"].to(self.device)
        pool = self.pool(config.pool)
        unet, text_encoder, schedule = self.denoiser(config.latents_from)
        empty = text_encoder(pool.empty_ids.long()[None])
        rows = []
        batch_size = min(512, config.latents)
        for index in range(-(-config.latents // batch_size)):
            _, ids = pool.batch(index, batch_size, seed=99)
            noise = fresh_noise((batch_size, *pool.latents.shape[1:]), self.device, name, config.loop.seed, index)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                rows.append(
                    sample_latents(
                        unet,
                        schedule,
                        SCHEDULES["zero-terminal"],
                        text_encoder(ids),
                        empty,
                        steps=config.sampling_steps,
                        guidance_scale=config.guidance_scale,
                        noise=noise,
                    ).half()
                )
        latents = torch.cat(rows)[: config.latents]
        save_tensors(path, {"latents": latents})
        return latents

    def denoiser(self, stage: str) -> tuple[UNet, TextEncoder, NoiseSchedule]:
        """A stage's UNet, its text encoder and schedule, on the device, for sampling.

        The text encoder is the stage's own where it trained one, else the run's.
        """
        weights = self.weights(stage, "unet.", "student.")
        shapes = {k: v.shape for k, v in weights.items()}
        for layout in self.networks.unets:
            for conditioned in (False, True):
                chosen = replace(layout, guidance_embedding_dim=GUIDANCE_CHANNELS) if conditioned else layout
                with torch.device("meta"):
                    fits = {k: v.shape for k, v in UNet(chosen).state_dict().items()} == shapes
                if fits:
                    unet = self.unet(layout.name, stage, conditioned)
                    schedule = self.schedule("zero-terminal", layout)
                    text_encoder = self.text_encoder(stage if self._has_text_encoder(stage) else self.text_encoder_from)
                    return unet.to(self.device).eval(), text_encoder.to(self.device).eval(), schedule.to(self.device)
        raise UsageError(f"{self.root / stage}: its UNet fits none of the known layouts.")

    def _has_text_encoder(self, stage: str) -> bool:
        tensors, _ = load_tensors(self.root / stage / "weights.safetensors")
        return any(name.startswith("text_encoder.") for name in tensors)

    def run_steps(self, name: str, config: StepConfig) -> None:
        """Distil two teacher steps into one student step."""
        teacher = self.unet(config.teacher, config.teacher_from)
        student = self.unet(config.student, config.student_from, config.guidance_conditioned)
        schedule = self.schedule(config.schedule, student.layout)
        text_encoder = self.text_encoder(config.text_encoder_from)
        objective = StepObjective(text_encoder, teacher, student, schedule, config.original_weight)
        stage = StepStage(name, config, objective, SCHEDULES[config.schedule], self.pool(config.pool))
        self._train(stage, config.loop, name)


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
