"""Golden vectors of a bundle: those of the bundle it replaces while they hold, else recorded anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from sfmobile.bundle.directory import GOLDEN_FOLDER, Bundle
from sfmobile.bundle.manifest import GoldenRecord, Manifest
from sfmobile.bundle.store import BundleWriter
from sfmobile.export.phases import ExportObserver

if TYPE_CHECKING:
    from sfmobile.sampling.golden import GoldenRun

# Runs the reference with the constants of a bundle that has no golden vectors yet.
GoldenRecorder: TypeAlias = "Callable[[Bundle], GoldenRun]"


def golden_record(
    writer: BundleWriter, manifest: Manifest, recorder: GoldenRecorder | None, observer: ExportObserver
) -> GoldenRecord | None:
    """Golden vectors of the new bundle that `manifest` describes: the replaced one's if they still hold, else those of
    `recorder`, which is asked only if all three components are there."""
    old = writer.replaced()
    if old is not None and old.golden is not None and _reference(old) == _reference(manifest):
        golden = old.golden
        if writer.adopt_files(golden.files):
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
    fields = {"latents", "guidance", "pipeline", "sampler", "time_embedding", "tokenizers"}
    return sources, manifest.model_dump(include=fields)
