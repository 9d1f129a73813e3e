"""`sfmobile.search_recipe` and `sfmobile.compress`: a recipe found, and a bundle stored by it."""

from __future__ import annotations

from pathlib import Path

import sfmobile
from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint


def test_a_searched_recipe_stores_a_bundle_anew(
    tiny_bundle: Bundle, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    found = sfmobile.search_recipe(tiny_checkpoint, same_size_as=4, prompt="a", steps=1, probes=1)
    assert "4 bits" in str(found) and set(found.recipe.components) == {"unet"}
    bundle = sfmobile.compress(
        tiny_bundle, tmp_path / "small", recipe=found.recipe, source=tiny_checkpoint, golden=False
    )
    record, before = bundle.manifest.components["unet"], tiny_bundle.manifest.components["unet"]
    assert record.compression is not None and record.compression.recipe_sha256 is not None
    assert record.bytes < before.bytes and record.attention == before.attention
