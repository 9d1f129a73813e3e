"""Golden vectors of a bundle: those of the bundle it replaces while they hold, else recorded anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, get_args

import numpy as np

from sfmobile.bundle.choices import Runs
from sfmobile.bundle.directory import GOLDEN_FOLDER, Bundle
from sfmobile.bundle.manifest import GoldenRecord, Manifest
from sfmobile.bundle.store import BundleWriter
from sfmobile.export.component import ComponentSpec, Setting, component_specs
from sfmobile.export.phases import ExportObserver
from sfmobile.sampling.guidance import is_guided

if TYPE_CHECKING:
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.sampling.golden import GoldenRun

# Floating-point operations a second of torch in fp32 on two cores, by what full-size networks took: 90 to 220 thousand
# million, as busy as the machine was.
RATE = 150e9
# A golden run takes as many steps as a minute at that rate has room for.
AFFORDABLE = 60 * RATE
# What needs no word beforehand.
SHORT_SECONDS = 10.0

# Runs the reference with the constants of a bundle that has no golden vectors yet.
GoldenRecorder: TypeAlias = "Callable[[Bundle], GoldenRun]"


@dataclass(frozen=True)
class GoldenPlan:
    """How long a golden run is to be. steps of default; operations: floating-point, of all of its calls."""

    steps: int
    default: int
    operations: float

    @property
    def seconds(self) -> float:
        """About how long it takes on two cores."""
        return self.operations / RATE

    def __str__(self) -> str:
        less = self.steps < self.default
        shortened = f" of {self.default} (--golden-steps for more, --no-golden for none)" if less else ""
        return (
            f"The golden run takes {self.steps} steps{shortened}: {self.operations / 1e12:.1f} teraflop, about "
            f"{self.seconds:.0f} s on two cores."
        )


def plan_golden_run(checkpoint: Checkpoint, manifest: Manifest, steps: int | None = None) -> GoldenPlan:
    """The default number of steps, or as many as are affordable, or `steps` whatever they cost.

    Counted on networks without memory for their weights; at least one step is affordable whatever the size.
    """
    default = manifest.pipeline.default_steps
    latents, guidance = manifest.latents, manifest.guidance
    setting = Setting(checkpoint, (latents.height, latents.width), guidance.batch)
    costs: dict[Runs, float] = dict.fromkeys(get_args(Runs), 0)
    for name, spec in component_specs(checkpoint).items():
        if name in manifest.components:
            costs[spec.runs] += _operations(checkpoint, spec, setting)
    guided = is_guided(guidance.default_scale) and not manifest.pipeline.takes_guidance
    a_step = costs["per_step"] * (2 if guided and guidance.batch == 1 else 1)
    once = costs["per_prompt"] * (2 if guided else 1) + costs["per_picture"] + costs["per_given_picture"]
    if steps is None:
        steps = max(1, min(default, int((AFFORDABLE - once) // a_step) if a_step else default))
    return GoldenPlan(steps, default, once + steps * a_step)


def _operations(checkpoint: Checkpoint, spec: ComponentSpec, setting: Setting) -> float:
    """Floating-point operations of one call of a component."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    kinds = {"int32": torch.int32}
    inputs = {
        tensor.name: torch.zeros(tensor.shape, dtype=kinds.get(tensor.dtype, torch.float32), device="meta")
        for tensor in spec.inputs(setting)
    }
    network = checkpoint.load(spec.name, None).to("meta", torch.float32)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(**inputs)
    return float(counter.get_total_flops())


def golden_record(
    writer: BundleWriter,
    manifest: Manifest,
    recorder: GoldenRecorder | None,
    observer: ExportObserver,
    steps: int | None = None,
) -> GoldenRecord | None:
    """Golden vectors of the new bundle that `manifest` describes: the replaced one's if they still hold (and have
    `steps`, if that many are asked for), else those of `recorder`, which is asked only if all three components are
    there."""
    old = writer.replaced()
    if old is not None and old.golden is not None and _reference(old) == _reference(manifest):
        golden = old.golden
        if steps in (None, golden.steps) and writer.adopt_files(golden.files):
            return golden
    if recorder is None or not manifest.can_draw:
        return None
    observer.phase(None, "golden")
    run = recorder(writer.preview(manifest))

    def write(folder: Path) -> None:
        for name, vector in run.vectors.items():
            np.save(folder / f"{name}.npy", vector, allow_pickle=False)

    return GoldenRecord(
        prompt=run.prompt,
        negative_prompt=run.negative_prompt,
        seed=run.seed,
        steps=run.steps,
        guidance_scale=run.guidance_scale,
        files=writer.folder(GOLDEN_FOLDER, write),
    )


def _reference(manifest: Manifest) -> object:
    """All that golden vectors depend on: they are the reference's, so how a component is stored is no part of it."""
    sources = {name: component.source_sha256 for name, component in manifest.components.items()}
    fields = {"latents", "guidance", "pipeline", "sampler", "time_embedding", "tokenizers", "safety"}
    return sources, manifest.model_dump(include=fields)
