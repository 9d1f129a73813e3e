from __future__ import annotations

import math
from typing import Any

import pytest

from sfmobile.bundle.pipeline import TEXT_TO_IMAGE
from sfmobile.compress.recipe import ComponentRecipe, LayerRecipe, Recipe
from sfmobile.errors import UsageError
from sfmobile.export.options import FIXED, SIZED, ExportOptions, Variation

SIZE = (64, 64)
VARIATIONS = {
    "text_encoder": FIXED,
    "unet": Variation(sized=True, batched=True, cut=True),
    "decoder": SIZED,
}


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"target": "ios15"}, "Unknown target 'ios15'; expected one of ios16, ios17, ios18"),
        ({"attention": "flash"}, "Unknown attention form 'flash'"),
        ({"format": "tflite"}, "Unknown format 'tflite'"),
        ({"components": ()}, "No component chosen"),
        ({"prompt_chunks": 0}, "0 prompt chunks are impossible; expected 1 to 8"),
        ({"default_steps": 0}, "0 steps make no picture"),
        ({"default_guidance": math.nan}, "The guidance scale nan makes no sense"),
        ({"guidance_batch": 3}, "Unknown guidance batch '3'"),
        ({"bits": 5}, "5 bits can't be stored"),
        ({"bits": 3}, "3 bits need target ios18, found ios17"),
        ({"bits": 6, "group_size": 16}, "need target ios18, found ios17"),
        ({"bits": 6, "group_size": 0, "target": "ios18"}, "group of 0 channels"),
        ({"group_size": 16, "target": "ios18"}, "A group size needs bits"),
        ({"bits": 6, "recipe": Recipe.uniform(6)}, "A recipe already says bits"),
        ({"format": "onnx", "bits": 6}, "ONNX files are not palettized"),
        ({"format": "onnx", "recipe": Recipe.uniform(6)}, "ONNX files are not palettized"),
        ({"precision": "float32"}, "precision float32 is for --format onnx"),
    ],
)
def test_impossible_options_are_refused_at_once(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        ExportOptions(**wrong)


def digests(**options: Any) -> dict[str, str]:
    size = options.pop("size", SIZE)
    found = ExportOptions(**options)
    return {name: found.digest(name, VARIATIONS[name], size) for name in TEXT_TO_IMAGE}


@pytest.mark.parametrize(
    ("change", "rebuilt"),
    [
        ({}, set()),
        ({"force": True}, set()),
        ({"components": ("unet",)}, set()),
        ({"guidance_batch": 1}, {"unet"}),
        ({"size": (32, 32)}, {"unet", "decoder"}),
        ({"bits": 6}, set(TEXT_TO_IMAGE)),
        ({"target": "ios18"}, set(TEXT_TO_IMAGE)),
        ({"attention": "original"}, set(TEXT_TO_IMAGE)),
        ({"author": "A. U. Thor"}, set(TEXT_TO_IMAGE)),
        ({"metadata": {"key": "value"}}, set(TEXT_TO_IMAGE)),
    ],
)
def test_an_option_rebuilds_the_components_it_changes_and_no_other(change: dict[str, Any], rebuilt: set[str]) -> None:
    before, after = digests(), digests(**change)
    assert {name for name in TEXT_TO_IMAGE if before[name] != after[name]} == rebuilt


def test_recipe_that_only_concerns_the_unet_rebuilds_the_unet() -> None:
    part = ComponentRecipe(layers={"conv_in": LayerRecipe(bits=8)})
    recipe = Recipe(default=LayerRecipe(bits=6), components={"unet": part})
    before, after = digests(bits=6), digests(recipe=recipe)
    assert {name for name in TEXT_TO_IMAGE if before[name] != after[name]} == {"unet"}
