"""An evolution by a plan's settings: supernet, score and fine-tuning put together in a run's directory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch

from sfmobile.errors import UsageError
from sfmobile.files import write_json
from sfmobile.nets.layout import UNetLayout
from sfmobile.nets.unet import UNet
from sfmobile.train import processes
from sfmobile.train.config import LoopConfig
from sfmobile.train.diffusion import NoiseSchedule
from sfmobile.train.evolve.evolution import Evolution, EvolutionConfig, Latency, read_decisions
from sfmobile.train.evolve.supernet import BlockCounts, expand, with_counts
from sfmobile.train.glyph import schedule_named
from sfmobile.train.loop import Observer, TrainingLoop
from sfmobile.train.network_sampler import Encode, Sampler, network_sampler
from sfmobile.train.record import StageRecord, UNetRecord
from sfmobile.train.run import Run
from sfmobile.train.stages.denoiser import DenoiserConfig, DenoiserObjective, DenoiserTraining

if TYPE_CHECKING:
    from sfmobile.nets.autoencoder import Decoder


@dataclass(frozen=True)
class EvolutionSettings:
    """evolution.json: an evolution as Algorithm 1 of arXiv 2306.00980 has it, and what the paper leaves open.

    unet: layout of stage `unet_from`, whose text encoder is kept; supernet: blocks per stage to grow it to first, None
    to evolve it as it is. One of target_ms (latency of a UNet call), target_share (of the supernet's) and target_layout
    (as fast as that layout) must be given. rounds, removals, copies, slack: see `EvolutionConfig`.
    robust, round, finish: loops of the first round's fine-tuning, of each later one's, and of the end's, which drops no
    blocks. block_dropout: probability that a block is the identity in a step of a round.
    pool: latents stage to fine-tune on; pictures: settings file of its selection, which the prompts come from;
    prompt_kinds: kinds of evaluation prompts, in turn; steps, guidance_scale: of the pictures that are scored.
    """

    unet: str
    unet_from: str
    autoencoder: str
    pool: str
    pictures: str
    robust: LoopConfig
    round: LoopConfig
    finish: LoopConfig
    supernet: BlockCounts | None = None
    decoder_from: str = "autoencoder"
    target_ms: float | None = None
    target_share: float | None = None
    target_layout: str | None = None
    rounds: int = 8
    removals: int = 2
    copies: int = 1
    slack: float = 0.05
    block_dropout: float = 0.1
    caption_dropout: float = 0.1
    schedule: str = "zero-terminal"
    prompts: int = 64
    prompt_kinds: tuple[str, ...] = ("style", "colour", "background", "composed")
    steps: int = 8
    guidance_scale: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        given = [value for value in (self.target_ms, self.target_share, self.target_layout) if value is not None]
        if len(given) != 1:
            raise UsageError(
                f"Evolution: expected one of target_ms, target_share and target_layout, found {len(given)} of them."
            )


class Score(Protocol):
    """How well a sampler's pictures agree with prompts; higher is better."""

    prompts: list[str]

    def __call__(self, sampler: Sampler) -> float:
        """The score of a sampler's pictures."""
        ...


@dataclass(frozen=True)
class Judge:
    """What scores pictures: agreement with prompts that no fine-tuning caption repeats, and their tokens."""

    agreement: Score
    encode: Encode


@dataclass(frozen=True)
class Observers:
    """Told of an evolution's progress: sentences, a named loop's steps, removals weighed."""

    told: Callable[[str], None] = lambda sentence: None
    training: Callable[[str], Observer | None] = lambda name: None
    counted: Callable[[int, int], None] = lambda done, total: None


class EvolutionRun:
    """Evolves the UNet of a stage in RUN/<name>/: `decisions.jsonl`, one directory a round, and at the end the
    evolved network as `layout.json`, `weights.safetensors` and `result.json`."""

    def __init__(
        self,
        run: Run,
        name: str,
        settings: EvolutionSettings,
        judge: Judge,
        latency: Latency,
        observers: Observers | None = None,
    ) -> None:
        self.run = run
        self.root = run.root / name
        self.name = name
        self.settings = settings
        self.judge = judge
        self.latency = latency
        self.observers = observers or Observers()
        self.pool = run.pool(settings.pool)
        self.text_encoder_from = run.text_encoder_of(settings.unet_from)
        self.text_encoder = run.text_encoder(self.text_encoder_from).to(run.device).eval()
        self.decoder: Decoder = run.decoder(settings.decoder_from, settings.autoencoder).to(run.device).eval()
        self.scheduler = schedule_named(settings.schedule)

    def evolve(self) -> UNet:
        """From the supernet to the finished network; each part is resumed where it was left."""
        settings = self.settings
        torch.manual_seed(settings.seed)
        supernet = self.supernet()
        target = self.target_ms(supernet.layout)
        config = EvolutionConfig(target, settings.rounds, settings.removals, settings.copies, settings.slack)
        evolution = Evolution(
            self.root, config, self.score, self.latency, self.fine_tune, self.observers.told, self.observers.counted
        )
        unet = evolution.run(supernet)
        self.train(unet, settings.finish, "finish", block_dropout=0.0)
        self._write_result(unet, supernet.layout, target)
        return unet

    def supernet(self) -> UNet:
        """The stage's network, grown to the supernet's counts."""
        settings = self.settings
        layout = self.run.unet_layout(settings.unet)
        unet = self.run.new_unet(layout, settings.unet_from).to(self.run.device)
        if settings.supernet is None:
            return unet
        return expand(unet, with_counts(unet.layout, settings.supernet, f"{settings.unet}-supernet"))

    def target_ms(self, supernet: UNetLayout) -> float:
        """The latency of one UNet call to reach."""
        settings = self.settings
        if settings.target_ms is not None:
            return settings.target_ms
        if settings.target_layout is not None:
            return self.latency(self.run.unet_layout(settings.target_layout))
        return self.latency(supernet) * float(settings.target_share or 1.0)

    def score(self, unet: UNet) -> float:
        """Agreement of a network's pictures with the prompts."""
        settings = self.settings
        unet.eval()
        pool_shape = self.pool.latents.shape
        sampler = network_sampler(
            self.text_encoder,
            unet,
            self.decoder,
            self.schedule(unet.layout).to(self.run.device),
            self.judge.encode,
            steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            latent_shape=(pool_shape[1], pool_shape[2], pool_shape[3]),
            scaling_factor=self.run.pool_record(settings.pool).scaling_factor,
        )
        return self.judge.agreement(sampler)

    def schedule(self, layout: UNetLayout) -> NoiseSchedule:
        """The noise schedule that networks of a layout are trained and sampled on."""
        return NoiseSchedule(self.scheduler, layout.down[0].channels)

    def fine_tune(self, unet: UNet, number: int) -> None:
        """Fine-tune `unet` in place for round `number`, blocks dropped at random."""
        loop = self.settings.robust if number == 0 else self.settings.round
        self.train(unet, loop, f"round-{number}", self.settings.block_dropout)

    def train(self, unet: UNet, loop: LoopConfig, name: str, block_dropout: float) -> None:
        """Train `unet` in place on the pool, in RUN/<evolution>/<name>/."""
        settings = self.settings
        config = DenoiserConfig(
            replace(loop, seed=loop.seed + settings.seed),
            unet.layout.name,
            settings.schedule,
            text_encoder_from=self.text_encoder_from,
            caption_dropout=settings.caption_dropout,
            block_dropout=block_dropout,
            robust_fraction=1.0,
        )
        objective = DenoiserObjective(self.text_encoder, unet, self.schedule(unet.layout))
        training = DenoiserTraining(f"{self.name}/{name}", config, objective, self.pool)
        observer = self.observers.training(name)
        weights = TrainingLoop(training, config.loop, self.root / name, observer, cpu=self.run.cpu).run()
        own = {key.removeprefix("unet."): value for key, value in weights.items() if key.startswith("unet.")}
        unet.load_state_dict(own)
        unet.eval()

    def _write_result(self, unet: UNet, supernet: UNetLayout, target: float) -> None:
        layout = replace(unet.layout, name=self.name)
        record = UNetRecord(
            layout=layout,
            schedule=self.scheduler,
            latents=self.run.pool_record(self.settings.pool),
            text_encoder_from=self.text_encoder_from,
        )
        weights = {f"unet.{key}": value for key, value in unet.state_dict().items()}
        self.run.leave(self.name, weights, StageRecord(kind="evolution", unet=record))
        if processes.rank():
            return
        write_json(self.root / "layout.json", asdict(layout))
        result = {
            "target_ms": target,
            "supernet": {"latency_ms": self.latency(supernet), "layout": asdict(supernet)},
            "evolved": {"latency_ms": self.latency(layout), "score": self.score(unet), "layout": asdict(layout)},
            "rounds": len(read_decisions(self.root)),
            "prompts": self.judge.agreement.prompts,
        }
        write_json(self.root / "result.json", result)
