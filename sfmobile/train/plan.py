"""A training plan: the stages of a run in order, each with its settings, as JSON files in one directory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from sfmobile.errors import UsageError
from sfmobile.nets.autoencoder import Decoder, Encoder
from sfmobile.nets.layout import TEXT_ENCODER_LAYOUTS, TextEncoderLayout
from sfmobile.train.config import read_config
from sfmobile.train.glyph import schedule_named
from sfmobile.train.loop import Observer
from sfmobile.train.pictures import Pictures, PicturesConfig
from sfmobile.train.pretrained.lpips import LPIPS
from sfmobile.train.run import Networks, Run
from sfmobile.train.stage import Count, StageConfig, Workplace
from sfmobile.train.stages import stage_kinds
from sfmobile.train.state import load_tensors

# What plans are called in their own folder; older than the word.
PLAN = "recipe.json"


@dataclass(frozen=True)
class StageEntry:
    """One stage: `name` is its directory in the run and, with .json, its settings file in the plan; `kind` is the name
    of a module in `stages/`."""

    name: str
    kind: str

    def __post_init__(self) -> None:
        if self.kind not in stage_kinds():
            raise UsageError(
                f"Stage '{self.name}': kind '{self.kind}' is unknown; expected one of {', '.join(stage_kinds())}."
            )


@dataclass(frozen=True)
class CheckpointEntry:
    """Which stages the finished checkpoint is made of, and the guidance scale it recommends.

    unet, autoencoder: layouts, that the stages must have; text_encoder_from, schedule: by default those that the UNet
    was trained with, and no others are taken.
    """

    unet: str
    unet_from: str
    autoencoder: str
    text_encoder_from: str | None = None
    encoder_from: str = "autoencoder"
    decoder_from: str = "autoencoder"
    schedule: str | None = None
    guidance_scale: float = 3.0


@dataclass(frozen=True)
class TrainingPlan:
    """A plan's own file. token_initialisation: start the token embedding from a sentence encoder; perceptual: LPIPS
    trunk; ablations: stages that the checkpoint doesn't need, run one by one or by name, for comparison; grows_from:
    another plan, whose run lies in this one's directory under its name and whose stages this one's may start from,
    named as `glyph-64/teacher`."""

    name: str
    text_encoder: str
    stages: tuple[StageEntry, ...]
    checkpoint: CheckpointEntry
    ablations: tuple[StageEntry, ...] = ()
    token_initialisation: bool = True
    perceptual: Literal["vgg16", "alexnet"] = "vgg16"
    grows_from: str | None = None

    @classmethod
    def read(cls, directory: Path) -> TrainingPlan:
        """The plan in `directory`; `UsageError` names what is wrong in which file."""
        return read_config(cls, directory / PLAN)

    def stage(self, name: str) -> StageEntry:
        """The stage or ablation called `name`."""
        known = (*self.stages, *self.ablations)
        for entry in known:
            if entry.name == name:
                return entry
        names = ", ".join(entry.name for entry in known)
        raise UsageError(f"Plan '{self.name}' has no stage '{name}'; it has {names}.")

    def text_encoder_layout(self) -> TextEncoderLayout:
        """The text encoder's layout by name."""
        if self.text_encoder not in TEXT_ENCODER_LAYOUTS:
            raise UsageError(
                f"{PLAN}: text_encoder '{self.text_encoder}' is unknown; "
                f"expected one of {', '.join(TEXT_ENCODER_LAYOUTS)}."
            )
        return TEXT_ENCODER_LAYOUTS[self.text_encoder]


class PlanRun:
    """Runs a plan's stages in a run directory. `cache` holds the sprites, the LPIPS weights and the token start."""

    def __init__(self, directory: Path, root: Path, cache: Path, cpu: bool = False) -> None:
        self.directory = directory
        self.plan = TrainingPlan.read(directory)
        self.cache = cache
        self.run = Run(root, Networks(text_encoder=self.plan.text_encoder_layout()), cpu=cpu)

    def settings(self, name: str) -> StageConfig:
        """The settings of a stage, of its kind."""
        return read_config(stage_kinds()[self.plan.stage(name).kind], self.directory / f"{name}.json")

    def run_stage(self, name: str, observer: Observer | None = None, count: Count | None = None) -> None:
        """Run one stage to its end, from its last checkpoint if it was interrupted."""
        settings = self.settings(name)
        self._require_the_run_it_grows_from()
        for source in settings.sources():
            self.run.record(source)
        self.run.is_done(name, settings.result)
        place = Workplace(
            self.run,
            self._pictures,
            lambda: LPIPS.load(self.cache, self.plan.perceptual),
            lambda: self._token_embedding(count),
            observer,
            count,
        )
        settings.run(name, place)

    def is_done(self, name: str) -> bool:
        """Whether a stage's result is there. Raises `ArtifactError` as `Run.is_done` does."""
        return self.run.is_done(name, stage_kinds()[self.plan.stage(name).kind].result)

    def assemble(self, target: Path, tokenizer_dir: Path) -> None:
        """Write the finished networks as a diffusers-format checkpoint at `target`.

        Raises `UsageError` if the plan names other layouts, another text encoder or another schedule than the stages
        were trained with.
        """
        from sfmobile.checkpoint.writer import write_checkpoint

        entry, run = self.plan.checkpoint, self.run
        unet, record = run.trained_unet(entry.unet_from, entry.unet), run.unet_record(entry.unet_from)
        text_encoder_from = run.text_encoder_of(entry.unet_from)
        if entry.text_encoder_from not in (None, text_encoder_from):
            raise UsageError(
                f"{self.directory / PLAN}: expected the text encoder of '{text_encoder_from}', which the UNet of "
                f"'{entry.unet_from}' was trained with, found text_encoder_from '{entry.text_encoder_from}'; leave it "
                "out or name that one."
            )
        if entry.schedule is not None and schedule_named(entry.schedule) != record.schedule:
            raise UsageError(
                f"{self.directory / PLAN}: expected the noise schedule that the UNet of '{entry.unet_from}' was "
                f"trained on, found '{entry.schedule}'; leave it out or name that one."
            )
        encoder = run.encoder(entry.encoder_from, entry.autoencoder)
        decoder = run.decoder(entry.decoder_from, entry.autoencoder)
        # Both halves of one layout, with the scale of the latents that the UNet makes.
        layout = replace(run.networks.autoencoder(entry.autoencoder), scaling_factor=record.latents.scaling_factor)
        halves = Encoder(layout), Decoder(layout)
        halves[0].load_state_dict(encoder.state_dict())
        halves[1].load_state_dict(decoder.state_dict())
        write_checkpoint(
            target,
            text_encoder=run.text_encoder(text_encoder_from),
            unet=unet,
            encoder=halves[0],
            decoder=halves[1],
            scheduler=record.schedule,
            tokenizer_dir=tokenizer_dir,
            latent_size=(record.latents.height, record.latents.width),
            guidance_scale=entry.guidance_scale,
        )

    def _require_the_run_it_grows_from(self) -> None:
        other = self.plan.grows_from
        if other is not None and not (self.run.root / other).is_dir():
            raise UsageError(
                f"{self.run.root / other}: plan '{self.plan.name}' goes on from a run of '{other}', found none "
                f"there; link one, or make it with sfmobile train all {self.directory.parent / other} --run "
                f"{self.run.root / other}."
            )

    def _pictures(self, name: str) -> Pictures:
        config = read_config(PicturesConfig, self.directory / f"{name}.json")
        return Pictures.open(self.cache, config, self.run.device)

    def _token_embedding(self, count: Count | None) -> Tensor | None:
        """What the token embedding starts from, computed at the first call of a run, if the plan has it so."""
        from sfmobile.train.data.tokens import TOKENIZER_DIR
        from sfmobile.train.pretrained.token_init import write_token_embedding

        if not self.plan.token_initialisation:
            return None
        path = self.run.root / "token_init.safetensors"
        if not path.exists():
            hidden = self.run.networks.text_encoder.hidden
            write_token_embedding(path, TOKENIZER_DIR / "vocab.json", self.cache, hidden, count)
        return load_tensors(path)[0]["token_embedding"]
