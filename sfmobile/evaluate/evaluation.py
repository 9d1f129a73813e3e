"""Measuring a text-to-image sampler: distances, agreement, recognition, exact checks, memorisation, throughput.

Anything that turns captions and seeds into pictures is measured alike: the teacher, the student, each ablation's
variant, a checkpoint on disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from sfmobile.errors import UsageError
from sfmobile.evaluate import figures as named
from sfmobile.evaluate.contrastive import concept_texts, embed_pictures, own_retrieval, recognised
from sfmobile.evaluate.figures import KINDS, NETWORK, THROUGHPUT, FigureKind
from sfmobile.evaluate.metrics.compositions import ColourReferences, check_compositions
from sfmobile.evaluate.metrics.dual_encoder import DualEncoder
from sfmobile.evaluate.metrics.frechet import DistanceMeter
from sfmobile.evaluate.metrics.memorisation import as_bytes, as_float, nearest_training
from sfmobile.evaluate.metrics.retrieval import Retrieval, distinct_texts
from sfmobile.evaluate.prompt_sets import (
    COMPOSED_KINDS,
    COMPOSED_SPLITS,
    PromptSet,
    composed_prompts,
    distribution_prompts,
    held_out_prompts,
    kind_shares,
    portraits,
    recognition_prompts,
)
from sfmobile.evaluate.report import Axis, SamplerFigures
from sfmobile.models import models_folder
from sfmobile.train.data.split import HELD_OUT, TRAIN
from sfmobile.train.network_sampler import Encode, Sampler, SamplingPrecision
from sfmobile.train.pretrained.efficientnet_lite import INPUT_SIZE, EfficientNetLite0
from sfmobile.train.pretrained.lpips import LPIPS, Trunk

if TYPE_CHECKING:
    from sfmobile.train.data.compose import SpritePool
    from sfmobile.train.data.scenes import Attributes

Part = Literal["distribution", "recognition", "composed", "memorisation"]
PARTS: tuple[Part, ...] = ("distribution", "recognition", "composed", "memorisation")
# The dual encoder that comes with sfmobile.
DUAL_ENCODER = models_folder() / "dual-encoder" / "dual_encoder.safetensors"


@dataclass(frozen=True)
class EvaluationConfig:
    """How much is measured.

    pictures: for distances and agreement; recognised: pictures of each held-out concept × style, of different seeds;
    composed: prompts of each list in `checks` (of COMPOSED_SPLITS: those that the samplers were trained for);
    memorised: pictures compared with the training set, which is cut to `training` drawings; batch: pictures sampled at
    once; feature_size: side in pixels that the feature network sees pictures at, and part of the distances' meaning;
    precision: what a run's networks sample in, "auto" = bfloat16 autocast on a GPU and float32 on a CPU;
    new_to_judge: splits of the sprites that the dual encoder wasn't trained on.
    """

    pictures: int = 2048
    recognised: int = 1
    composed: int = 100
    checks: tuple[str, ...] = COMPOSED_SPLITS
    memorised: int = 200
    training: int = 4000
    batch: int = 256
    feature_size: int = INPUT_SIZE
    precision: SamplingPrecision = "auto"
    new_to_judge: tuple[str, ...] = (HELD_OUT,)
    seed: int = 2024

    def __post_init__(self) -> None:
        unknown = sorted(set(self.checks) - set(COMPOSED_SPLITS))
        if unknown:
            raise UsageError(f"checks: there is no '{unknown[0]}'; expected some of {', '.join(COMPOSED_SPLITS)}.")


@dataclass(frozen=True)
class Judges:
    """The networks that measure, on one device; `lpips` is only needed for memorisation."""

    features: nn.Module
    dual_encoder: DualEncoder
    encode: Encode
    lpips: nn.Module | None = None

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.dual_encoder.log_scale.device


def load_judges(
    cache: Path,
    dual_encoder: Path,
    device: torch.device,
    *,
    memorisation: bool = True,
    trunk: Trunk = "vgg16",
    feature_size: int = INPUT_SIZE,
) -> Judges:
    """The judges on `device`: feature network and LPIPS from the cache (fetched if missing), the dual encoder from its
    file; without LPIPS where memorisation isn't asked for."""
    from sfmobile.train.data.tokens import CaptionTokenizer

    tokenizer = CaptionTokenizer()
    features = EfficientNetLite0.load(cache)
    features.input_size = feature_size
    return Judges(
        features.to(device, memory_format=torch.channels_last),  # type: ignore[call-overload]
        DualEncoder.load(dual_encoder).to(device),
        lambda captions: torch.as_tensor(tokenizer.encode_batch(captions)),
        LPIPS.load(cache, trunk).to(device) if memorisation else None,
    )


class Evaluation:
    """The fixed prompts, their real pictures and the judges; measures one sampler after another on the same seeds."""

    def __init__(
        self,
        pool: SpritePool,
        judges: Judges,
        config: EvaluationConfig,
        side: int = 128,
        splits: Sequence[str] = (TRAIN,),
    ) -> None:
        """`pool`: sprites of the kinds that the samplers were trained on, held-out ones included; `side`: that of the
        samplers' pictures; `splits`: the parts that they were trained on."""
        self.side = side
        self.pool = pool
        self.judges = judges
        self.config = config
        rows = [row for row, sprite in enumerate(pool.sprites) if sprite.split in splits]
        self.references = ColourReferences(pool.pixels.cpu().numpy(), [sprite.base for sprite in pool.sprites])
        self.distribution = held_out_prompts(pool, config.pictures, splits, config.seed, side)
        self.recognition = recognition_prompts(pool, side, repeats=config.recognised)
        self.composed = composed_prompts(pool, config.composed, config.checks)
        # Real compositions, on which the checks themselves are checked.
        kinds = dict.fromkeys((COMPOSED_KINDS[check] for check in config.checks), 1.0)
        self.compositions = distribution_prompts(
            pool, 4 * config.composed, (*splits, HELD_OUT), config.seed, kinds, side
        )
        self.concepts = concept_texts(pool)
        # The floor differs from the held-out set by what is held out, not by its mixture of kinds.
        shares = kind_shares(self.distribution)
        training = distribution_prompts(pool, config.pictures, splits, config.seed + 1, shares, side, judge=False)
        self._distance = DistanceMeter(
            self._features(self.distribution.pictures), self._features(training.pictures), NETWORK
        )
        chosen = np.random.default_rng(config.seed).permutation(rows)[: config.training]
        self._drawings = portraits(pool, chosen.tolist(), side)

    @torch.no_grad()
    def _features(self, pictures: Tensor) -> Tensor:
        judges = self.judges
        return torch.cat([judges.features(as_float(part.to(judges.device))) for part in torch.split(pictures, 32)])

    def sample(
        self,
        sampler: Sampler,
        prompts: PromptSet,
        observer: Callable[[int], None] = lambda done: None,
        first_seed: int = 0,
    ) -> tuple[Tensor, float]:
        """Pictures of every prompt, uint8 (N, 3, H, W) on the CPU, seeds counted up; and the seconds sampling took.

        `observer` is told how many pictures are there after each batch.
        """
        parts, seconds = [], 0.0
        for start in range(0, len(prompts), self.config.batch):
            captions = prompts.captions[start : start + self.config.batch]
            began = time.perf_counter()
            pictures = sampler(captions, range(first_seed + start, first_seed + start + len(captions)))
            parts.append(as_bytes(pictures).cpu())
            seconds += time.perf_counter() - began
            observer(start + len(captions))
        return torch.cat(parts), seconds

    def measure(
        self,
        name: str,
        sampler: Sampler,
        settings: dict[str, float | int | str] | None = None,
        parts: Sequence[Part] = PARTS,
        series: str = "",
        varies: Axis | None = None,
        observer: Callable[[int], None] = lambda done: None,
        first_seed: int = 0,
    ) -> SamplerFigures:
        """Figures of `sampler` in the chosen parts; `series` names the sweep that it is a point of,
        `varies` what its points differ in; each part's
        prompts get the seeds from `first_seed` on.

        `observer` is told the pictures made so far, of `picture_count`.
        """
        figures: dict[str, float] = {}
        pictures, seconds = 0, 0.0
        if "distribution" in parts or "memorisation" in parts:
            made, took = self.sample(sampler, self.distribution, observer, first_seed)
            pictures, seconds = pictures + len(made), seconds + took
            if "distribution" in parts:
                figures |= self.distribution_figures(made)
            if "memorisation" in parts:
                figures |= self.memorisation_figures(made)
        for part, prompts, figures_of in (
            ("recognition", self.recognition, self.recognition_figures),
            ("composed", self.composed, self.composed_figures),
        ):
            if part in parts:
                before = pictures
                made, took = self.sample(
                    sampler,
                    prompts,
                    lambda done, before=before: observer(before + done),  # type: ignore[misc]
                    first_seed,
                )
                pictures, seconds = pictures + len(made), seconds + took
                figures |= figures_of(made)
        if seconds > 0:
            figures[THROUGHPUT] = pictures / seconds
        return SamplerFigures(name, dict(settings or {}), figures, series, varies)

    def picture_count(self, parts: Sequence[Part] = PARTS) -> int:
        """How many pictures `measure` samples for these parts."""
        shared = len(self.distribution) if {"distribution", "memorisation"} & set(parts) else 0
        own = {"recognition": self.recognition, "composed": self.composed}
        return shared + sum(len(prompts) for part, prompts in own.items() if part in parts)

    def judge_figures(self, compositions: int = 1024) -> dict[str, dict[str, float]]:
        """The dual encoder's own retrieval on real held-out pictures, the first thing a report says."""
        own = own_retrieval(
            self.judges.dual_encoder, self.pool, self.judges.encode, compositions, self.config.new_to_judge
        )
        return {name: asdict(figures) for name, figures in own.items()}

    def real(self, parts: Sequence[Part] = PARTS) -> SamplerFigures:
        """The same figures of the real pictures: what the measures themselves allow."""
        # A set's distance to itself says nothing; the floor is what real pictures reach.
        figures: dict[str, float] = {name: float(value) for name, value in self._distance.floor_row().items()}
        figures |= self._agreement_figures(self.distribution.pictures)
        if "recognition" in parts:
            figures |= self.recognition_figures(self.recognition.pictures)
        if "composed" in parts:
            figures |= self.composed_figures(self.compositions.pictures, self.compositions.attributes)
        if "memorisation" in parts:
            figures |= self.memorisation_figures(self.distribution.pictures)
        return SamplerFigures("real held-out pictures", {}, figures)

    def distribution_figures(self, made: Tensor) -> dict[str, float]:
        """Distances to the real held-out pictures, each with its floor; agreement with the prompts; retrieval."""
        distance = self._distance.measure(self._features(made))
        return {name: float(value) for name, value in distance.row().items()} | self._agreement_figures(made)

    def _agreement_figures(self, made: Tensor) -> dict[str, float]:
        found = self._recognised(made, self.distribution.texts)
        return {
            named.AGREEMENT: found.agreement,
            "agreement with other prompts": found.mismatch,
            "prompt R@1": found.recall_at_1,
            "prompt R@5": found.recall_at_5,
        }

    def recognition_figures(self, made: Tensor) -> dict[str, float]:
        """Whether held-out concept × style pictures are recognised, among those concepts and among all."""
        own = self._recognised(made, self.recognition.texts)
        every = self._recognised(made, self.recognition.texts, self.concepts)
        return {
            "agreement with held-out concept × style": own.agreement,
            named.recognised(1, own.candidates): own.recall_at_1,
            named.recognised(5, own.candidates): own.recall_at_5,
            named.recognised(1, every.candidates): every.recall_at_1,
            named.recognised(5, every.candidates): every.recall_at_5,
        }

    def kinds(self) -> dict[str, FigureKind]:
        """What each figure that it can measure is, in the order of the tables' columns."""
        own, every = self.recognition.texts, [*self.recognition.texts, *self.concepts]
        candidates = [len(distinct_texts(self.judges.encode(texts))[0]) for texts in (own, every)]
        return {**KINDS, **named.kinds_of_recognition(*candidates)}

    def _recognised(self, made: Tensor, texts: Sequence[str], others: Sequence[str] = ()) -> Retrieval:
        judges = self.judges
        return recognised(judges.dual_encoder, judges.encode, embed_pictures(judges.dual_encoder, made), texts, others)

    def composed_figures(self, made: Tensor, attributes: Sequence[Attributes] | None = None) -> dict[str, float]:
        """Share of right answers of each exact check; `attributes` are the composed prompts' unless given."""
        says = self.composed.attributes if attributes is None else attributes
        checks = check_compositions(as_float(made.to(self.judges.device)), says, self.references)
        return {f"{name} right": check.share for name, check in checks.items() if check.checked}

    def memorisation_figures(self, made: Tensor) -> dict[str, float]:
        """Median and lowest LPIPS to the nearest training drawing; nothing without the LPIPS network."""
        if self.judges.lpips is None:
            return {}
        cut = made[: self.config.memorised]
        nearest = nearest_training(cut, self._drawings, self.judges.features, self.judges.lpips)
        return {
            "nearest training LPIPS": float(nearest.distance.median()),
            "nearest training LPIPS, 5th percentile": float(nearest.distance.quantile(0.05)),
        }

    def describe(self) -> dict[str, object]:
        """What was measured on, for the report."""
        return {
            # Lists as JSON has them, so that a record read back is equal to the one written.
            "config": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.config).items()},
            "side": self.side,
            "prompts": {
                "distribution": len(self.distribution),
                "recognition": len(self.recognition),
                "composed": len(self.composed),
                "training drawings": len(self._drawings),
            },
        }
