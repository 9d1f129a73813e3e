"""A recipe: the stages of a training run in order, each with its settings, as JSON files in one directory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sfmobile.errors import UsageError
from sfmobile.train.config import read_config

if TYPE_CHECKING:
    from sfmobile.nets.layout import TextEncoderLayout
    from sfmobile.train.loop import Observer
    from sfmobile.train.pictures import Pictures, PicturesConfig
    from sfmobile.train.pretrained.lpips import LPIPS
    from sfmobile.train.stages.run import Count, Run

StageKind = Literal["autoencoder", "latents", "denoiser", "decoder", "steps"]


@dataclass(frozen=True)
class StageEntry:
    """One stage: `name` is its directory in the run and, with .json, its settings file in the recipe."""

    name: str
    kind: StageKind


@dataclass(frozen=True)
class CheckpointEntry:
    """Which stages the finished checkpoint is made of, and the guidance scale it recommends."""

    unet: str
    unet_from: str
    autoencoder: str
    text_encoder_from: str = "teacher"
    encoder_from: str = "autoencoder"
    decoder_from: str = "autoencoder"
    schedule: str = "zero-terminal"
    guidance_scale: float = 3.0


@dataclass(frozen=True)
class Recipe:
    """recipe.json. token_initialisation: start the token embedding from a sentence encoder; perceptual: LPIPS trunk;
    ablations: stages that the checkpoint doesn't need, run one by one or by name, for comparison; grows_from: another
    recipe, whose run lies in this one's directory under its name and whose stages this one's may start from, named
    as `glyph-64/teacher`."""

    name: str
    text_encoder: str
    stages: tuple[StageEntry, ...]
    checkpoint: CheckpointEntry
    ablations: tuple[StageEntry, ...] = ()
    token_initialisation: bool = True
    perceptual: Literal["vgg16", "alexnet"] = "vgg16"
    grows_from: str | None = None

    @classmethod
    def read(cls, directory: Path) -> Recipe:
        """The recipe in `directory`; `UsageError` names what is wrong in which file."""
        return read_config(cls, directory / "recipe.json")

    def stage(self, name: str) -> StageEntry:
        """The stage or ablation called `name`."""
        known = (*self.stages, *self.ablations)
        for entry in known:
            if entry.name == name:
                return entry
        names = ", ".join(entry.name for entry in known)
        raise UsageError(f"Recipe '{self.name}' has no stage '{name}'; it has {names}.")

    def text_encoder_layout(self) -> TextEncoderLayout:
        """The text encoder's layout by name."""
        from sfmobile.nets.layout import TEXT_ENCODER_LAYOUTS

        if self.text_encoder not in TEXT_ENCODER_LAYOUTS:
            raise UsageError(
                f"recipe.json: text_encoder '{self.text_encoder}' is unknown; "
                f"expected one of {', '.join(TEXT_ENCODER_LAYOUTS)}."
            )
        return TEXT_ENCODER_LAYOUTS[self.text_encoder]


class RecipeRun:
    """Runs a recipe's stages in a run directory. `cache` holds the sprites, the LPIPS weights and the token start."""

    def __init__(self, directory: Path, root: Path, cache: Path, cpu: bool = False) -> None:
        from sfmobile.train.stages.run import Networks, Run

        self.directory = directory
        self.recipe = Recipe.read(directory)
        self.cache = cache
        self.run: Run = Run(
            root,
            Networks(text_encoder=self.recipe.text_encoder_layout()),
            cpu=cpu,
            text_encoder_from=self.recipe.checkpoint.text_encoder_from,
        )

    def run_stage(self, name: str, observer: Observer | None = None, count: Count | None = None) -> None:
        """Run one stage to its end, from its last checkpoint if it was interrupted."""
        entry = self.recipe.stage(name)
        self._require_the_run_it_grows_from()
        self.run.observer = observer
        stages: dict[StageKind, Callable[[str, Count | None], None]] = {
            "autoencoder": self._autoencoder,
            "latents": self._latents,
            "denoiser": self._denoiser,
            "decoder": self._decoder,
            "steps": self._steps,
        }
        stages[entry.kind](name, count)

    def is_done(self, name: str) -> bool:
        """Whether a stage's result is there."""
        result = "pool.safetensors" if self.recipe.stage(name).kind == "latents" else "weights.safetensors"
        return (self.run.root / name / result).exists()

    def assemble(self, target: Path, tokenizer_dir: Path) -> None:
        """Write the finished networks as a diffusers-format checkpoint at `target`."""
        from sfmobile.checkpoint.writer import write_checkpoint
        from sfmobile.train.glyph import SCHEDULES

        entry, run = self.recipe.checkpoint, self.run
        encoder, decoder = run.autoencoder_from(entry.autoencoder, entry.encoder_from, entry.decoder_from)
        side = self._pictures_config().side // decoder.layout.downsampling
        write_checkpoint(
            target,
            text_encoder=run.text_encoder(entry.text_encoder_from),
            unet=run.unet(entry.unet, entry.unet_from),
            decoder=decoder,
            encoder=encoder,
            scheduler=SCHEDULES[entry.schedule],
            tokenizer_dir=tokenizer_dir,
            latent_size=(side, side),
            guidance_scale=entry.guidance_scale,
        )

    def _require_the_run_it_grows_from(self) -> None:
        other = self.recipe.grows_from
        if other is not None and not (self.run.root / other).is_dir():
            raise UsageError(
                f"{self.run.root / other}: recipe '{self.recipe.name}' goes on from a run of '{other}', found none "
                f"there; link one, or make it with sfmobile train all {self.directory.parent / other} --run "
                f"{self.run.root / other}."
            )

    # Stages -----------------------------------------------------------------------------------------------------------

    def _settings(self, name: str) -> Path:
        return self.directory / f"{name}.json"

    def _pictures_config(self, name: str = "pictures") -> PicturesConfig:
        from sfmobile.train.pictures import PicturesConfig

        return read_config(PicturesConfig, self._settings(name))

    def _pictures(self, name: str = "pictures") -> Pictures:
        from sfmobile.train.pictures import Pictures

        return Pictures.open(self.cache, self._pictures_config(name), self.run.device)

    def _perceptual(self) -> LPIPS:
        from sfmobile.train.pretrained.lpips import LPIPS

        return LPIPS.load(self.cache, self.recipe.perceptual)

    def _autoencoder(self, name: str, count: Count | None) -> None:
        from sfmobile.train.stages.autoencoder import AutoencoderConfig

        config = read_config(AutoencoderConfig, self._settings(name))
        perceptual = self._perceptual() if config.perceptual_weight > 0 else None
        self.run.run_autoencoder(config, self._pictures(), perceptual, name)

    def _latents(self, name: str, count: Count | None) -> None:
        from sfmobile.train.stages.run import LatentsConfig

        config = read_config(LatentsConfig, self._settings(name))
        self.run.run_latents(config, self._pictures(config.pictures), count, name)

    def _denoiser(self, name: str, count: Count | None) -> None:
        from sfmobile.train.stages.denoiser import DenoiserConfig

        config = read_config(DenoiserConfig, self._settings(name))
        if config.text_encoder_from is None and self.recipe.token_initialisation:
            self._token_start(count)
        self.run.run_denoiser(name, config)

    def _token_start(self, count: Count | None) -> None:
        from sfmobile.train.data.tokens import TOKENIZER_DIR
        from sfmobile.train.pretrained.token_init import write_token_embedding

        path = self.run.root / "token_init.safetensors"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            hidden = self.run.networks.text_encoder.hidden
            write_token_embedding(path, TOKENIZER_DIR / "vocab.json", self.cache, hidden, count)

    def _decoder(self, name: str, count: Count | None) -> None:
        from sfmobile.train.stages.decoder import DecoderConfig

        config = read_config(DecoderConfig, self._settings(name))
        self.run.run_decoder(name, config, self._perceptual() if config.perceptual_weight > 0 else None)

    def _steps(self, name: str, count: Count | None) -> None:
        from sfmobile.train.stages.steps import StepConfig

        self.run.run_steps(name, read_config(StepConfig, self._settings(name)))
