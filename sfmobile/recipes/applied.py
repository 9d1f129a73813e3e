"""A bundle stored as a recipe says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sfmobile.bundle.directory import MANIFEST_FILE, Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.hub import open_checkpoint
from sfmobile.compress.recipe import Recipe
from sfmobile.errors import UsageError
from sfmobile.export.exported import ExportedBundle, export_checkpoint
from sfmobile.export.options import ExportOptions
from sfmobile.observer import Observer
from sfmobile.runtime.opening import open_bundle, open_source

if TYPE_CHECKING:
    from sfmobile.bundle.choices import Target
    from sfmobile.bundle.manifest import Manifest

# Of a checkpoint that is exported by a recipe.
DEFAULT_TARGET: Target = "ios17"


def compress(
    bundle: Bundle | Checkpoint | Path | str,
    output: Path | str,
    *,
    recipe: Recipe | Path | str,
    source: Checkpoint | Path | str | None = None,
    target: Target | None = None,
    golden: bool = True,
    observer: Observer | None = None,
) -> ExportedBundle:
    """Store a bundle's weights, or export a checkpoint, as a recipe says, to the bundle directory `output`.

    A bundle is built again from its checkpoint with the options it was made with: lookup tables made from lookup
    tables would add up their errors.

    bundle: a bundle, or a checkpoint (a directory, a Hugging Face Hub id). recipe: from `search_recipe`, or its file.
    source: the checkpoint of the bundle, if it isn't where it was exported from. target: the earliest system to run
    on, by default the bundle's, or ios17. golden: record a reference run for tests.

    Raises `UsageError` for a recipe that doesn't fit, and as `export` does.
    """
    observer = observer or Observer()
    read = recipe if isinstance(recipe, Recipe) else Recipe.read(Path(recipe))
    if isinstance(bundle, Bundle) or (not isinstance(bundle, Checkpoint) and (Path(bundle) / MANIFEST_FILE).is_file()):
        opened = open_bundle(bundle, observer=observer)
        checkpoint = open_source(opened, source, observer)
        options = options_of(opened.manifest, read, target)
    else:
        if source is not None:
            raise UsageError(f"--source names the checkpoint of a bundle, and '{bundle}' is no bundle; leave it out.")
        observer.start(f"Opening {bundle}")
        checkpoint = open_checkpoint(bundle)
        options = ExportOptions(target=target or DEFAULT_TARGET, recipe=read)
    return export_checkpoint(checkpoint, Path(output), options, golden=golden, observer=observer)


def options_of(manifest: Manifest, recipe: Recipe, target: Target | None) -> ExportOptions:
    """The options that a bundle was exported with, and `recipe` in place of its compression."""
    first = next(iter(manifest.components.values()))
    records = manifest.components.values()
    sizes = dict.fromkeys((height, width) for height, width, _ in manifest.shapes())
    size = (manifest.latents.height, manifest.latents.width)
    return ExportOptions(
        target=manifest.target if target is None else target,
        format=first.format,
        attention=first.attention,
        recipe=recipe,
        components=tuple(manifest.components),
        latent_size=size,
        guidance_batch=manifest.guidance.batch,
        chunks=max(1, *(len(record.chunks) for record in records)),
        multifunction=any(record.functions for record in records if record.runs == "per_step"),
        multifunction_decoder=any(record.functions for record in records if record.runs != "per_step"),
        more_latent_sizes=tuple(other for other in sizes if other != size),
    )
