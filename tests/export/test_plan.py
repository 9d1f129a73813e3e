from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sfmobile.bundle.pipeline import TEXT_TO_IMAGE
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.compress.recipe import ComponentRecipe, LayerRecipe, Recipe
from sfmobile.errors import UsageError
from sfmobile.export.options import ExportOptions
from sfmobile.export.plan import component_bytes, plan_export
from sfmobile.testing import write_synthetic_checkpoint
from tests.tiny import TINY_AUTOENCODER, TINY_TEXT_ENCODER, TINY_UNET

SHAPES = {"a.weight": (64, 32, 3, 3), "a.bias": (64,), "tiny.weight": (4, 4, 1, 1)}
REST = 2 * (64 + 16)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (LayerRecipe(bits=16), 2 * 64 * 288),
        (LayerRecipe(bits=6), 64 * 288 * 6 // 8 + 2 * 64),
        (LayerRecipe(bits=4, group_size=16), 64 * 288 // 2 + 4 * 2 * 16),
        (LayerRecipe(bits=4, group_size=24), 64 * 288 // 2 + 2 * 16),
    ],
)
def test_stored_bytes_are_indices_tables_and_the_uncompressed_rest(layer: LayerRecipe, expected: int) -> None:
    assert component_bytes("unet", SHAPES, Recipe(default=layer)) == expected + REST


def test_plan_counts_what_is_asked_for(tiny_checkpoint: Checkpoint) -> None:
    plan = plan_export(tiny_checkpoint, ExportOptions(components=("unet", "decoder"), latent_size=(8, 16)))
    assert [part.name for part in plan.components] == ["unet", "decoder"]
    assert plan.latent_size == (8, 16)
    for part in plan.components:
        assert part.parameters == tiny_checkpoint.parameters(part.name)
        assert part.scratch_bytes == 0
    assert plan.disk_bytes == sum(part.bytes for part in plan.components)


def test_only_onnx_files_of_a_wide_checkpoint_need_scratch_space(tmp_path: Path) -> None:
    write_synthetic_checkpoint(
        tmp_path / "wide",
        unet_layout=TINY_UNET,
        text_encoder_layout=TINY_TEXT_ENCODER,
        autoencoder_layout=TINY_AUTOENCODER,
        dtype=torch.float32,
    )
    checkpoint = Checkpoint.open(tmp_path / "wide")
    largest = max(checkpoint.parameters(name) for name in TEXT_TO_IMAGE)
    for options, scratch in ((ExportOptions(), 0), (ExportOptions(format="onnx"), 2 * largest)):
        plan = plan_export(checkpoint, options)
        assert plan.disk_bytes - sum(part.bytes for part in plan.components) == scratch


def test_recipe_that_does_not_fit_is_refused_before_any_work(tiny_checkpoint: Checkpoint) -> None:
    part = ComponentRecipe(layers={"down_blocks.7.resnets.0.conv1": LayerRecipe(bits=4)})
    recipe = Recipe(default=LayerRecipe(bits=6), components={"unet": part})
    with pytest.raises(UsageError, match=r"names layer 'down_blocks.7.resnets.0.conv1'"):
        plan_export(tiny_checkpoint, ExportOptions(recipe=recipe))
    misnamed = Recipe(default=LayerRecipe(bits=6), components={"vae": ComponentRecipe(default=LayerRecipe(bits=4))})
    with pytest.raises(
        UsageError, match=r"a part for 'vae', which this checkpoint doesn't have \(it has text_encoder,"
    ):
        plan_export(tiny_checkpoint, ExportOptions(recipe=misnamed))
