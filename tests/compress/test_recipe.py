from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfmobile.compress.recipe import (
    BITS,
    ComponentRecipe,
    LayerRecipe,
    Recipe,
    architecture_digest,
    compressible_layers,
)
from sfmobile.errors import ArtifactError, UsageError

SHAPES = {"conv_in": (32, 4, 3, 3), "mid": (64, 32, 3, 3)}
RECIPE = Recipe(
    default=LayerRecipe(bits=6),
    components={
        "unet": ComponentRecipe(
            default=LayerRecipe(bits=4),
            layers={"conv_in": LayerRecipe(bits=16), "mid": LayerRecipe(bits=2, group_size=16)},
            architecture=architecture_digest(SHAPES),
        )
    },
)


def test_layer_takes_its_own_choice_then_the_components_then_the_recipes() -> None:
    assert RECIPE.layer("unet", "mid") == LayerRecipe(bits=2, group_size=16)
    assert RECIPE.layer("unet", "other").bits == 4
    assert RECIPE.layer("decoder", "other").bits == 6


def test_recipe_survives_its_file(tmp_path: Path) -> None:
    RECIPE.write(tmp_path / "recipe.json")
    assert Recipe.read(tmp_path / "recipe.json") == RECIPE


def test_what_concerns_one_component_is_equal_for_recipes_that_store_it_equally() -> None:
    spelled_out = ComponentRecipe(layers={"mid": LayerRecipe(bits=6)}, architecture="0" * 64)
    same = Recipe(default=LayerRecipe(bits=6), components={"unet": spelled_out})
    assert same.for_component("unet") == Recipe.uniform(6).for_component("unet")
    assert RECIPE.for_component("unet") != Recipe.uniform(6).for_component("unet")
    assert RECIPE.for_component("decoder") == Recipe.uniform(6).for_component("decoder")


def test_main_choice_is_that_of_most_weights_not_of_most_layers() -> None:
    recipe = Recipe(
        default=LayerRecipe(bits=8), components={"unet": ComponentRecipe(layers={"big": LayerRecipe(bits=2)})}
    )
    assert recipe.main_choice("unet", {"a": 10, "b": 10, "big": 100}).bits == 2


@given(st.integers(-2, 40))
def test_only_bits_that_coreml_stores_are_accepted(bits: int) -> None:
    if bits in BITS:
        assert Recipe.uniform(bits).default.bits == bits
    else:
        with pytest.raises(UsageError, match=f"{bits} bits can't be stored.*1, 2, 3, 4, 6, 8"):
            Recipe.uniform(bits)


@pytest.mark.parametrize("target", ["ios16", "ios17"])
@pytest.mark.parametrize("layer", [LayerRecipe(bits=3), LayerRecipe(bits=6, group_size=8)])
def test_three_bits_and_groups_need_ios18(target: str, layer: LayerRecipe) -> None:
    recipes = (
        Recipe(default=layer),
        Recipe(default=LayerRecipe(bits=6), components={"unet": ComponentRecipe(default=layer)}),
        Recipe(default=LayerRecipe(bits=6), components={"unet": ComponentRecipe(layers={"mid": layer})}),
    )
    for recipe in recipes:
        recipe.check_target("ios18")
        with pytest.raises(UsageError, match=f"need target ios18.*found {target}"):
            recipe.check_target(target)


def test_recipe_of_this_architecture_fits() -> None:
    RECIPE.check_component("unet", SHAPES)
    RECIPE.check_component("decoder", {"anything": (8, 8, 3, 3)})


def test_recipe_of_another_architecture_is_refused() -> None:
    with pytest.raises(UsageError, match="made for another architecture"):
        RECIPE.check_component("unet", {**SHAPES, "mid": (64, 32, 1, 1)})


def test_unknown_layer_is_named() -> None:
    recipe = Recipe(
        default=LayerRecipe(bits=6), components={"unet": ComponentRecipe(layers={"nowhere": LayerRecipe(bits=4)})}
    )
    with pytest.raises(UsageError, match="names layer 'nowhere' but unet has no weight"):
        recipe.check_component("unet", SHAPES)


def test_a_group_that_divides_few_of_the_weights_is_refused_and_the_others_are_counted() -> None:
    shapes = {"conv_in": (48, 4, 3, 3), "mid": (64, 32, 3, 3), "conv_out": (3, 32, 3, 3)}
    recipe = Recipe.uniform(6, 16)
    recipe.check_component("decoder", shapes)
    assert recipe.ungrouped("decoder", shapes) == ["conv_out"]
    with pytest.raises(
        UsageError, match="A group of 12 channels doesn't divide 2 of 3 layers of decoder, such as 'mid'"
    ):
        Recipe.uniform(6, 12).check_component("decoder", shapes)


def test_group_that_divides_no_channels_is_refused() -> None:
    part = ComponentRecipe(layers={"mid": LayerRecipe(bits=4, group_size=24)})
    with pytest.raises(UsageError, match=r"groups of 24 channels, which don't divide its 64"):
        Recipe(default=LayerRecipe(bits=6), components={"unet": part}).check_component("unet", SHAPES)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "is not JSON .line 1: .*compress search"),
        ("[]", "is not a recipe at its top: it should be an object, found a list"),
        ('{"default": {"bits": 5}}', "default: 5 bits can't be stored"),
        ('{"default": {"bits": 16, "group_size": 8}}', "a group size means nothing at 16 bits"),
        ('{"default": {"bits": 6, "group_size": 0}}', "default.group_size"),
        ('{"default": {"bits": 6}, "components": {"unet": {"bits": 6}}}', "components.unet.bits"),
        ('{"default": {"bits": 6}, "colour": 1}', "colour"),
        ('{"version": 9, "default": {"bits": 6}}', "version 9 but this sfmobile reads 1; upgrade"),
    ],
)
def test_broken_recipe_file_says_what_is_wrong(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(content)
    with pytest.raises(ArtifactError, match=expected) as raised:
        Recipe.read(path)
    assert str(path) in str(raised.value)


def test_missing_recipe_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"absent\.json' doesn't exist: expected a recipe; correct it, or"):
        Recipe.read(tmp_path / "absent.json")


def test_kernels_are_compressible_and_embeddings_norms_biases_and_tiny_ones_are_not() -> None:
    shapes = {
        "conv.weight": (32, 32, 3, 3),
        "conv.bias": (32,),
        "norm.weight": (4096,),
        "token_embedding.weight": (600, 32),
        "tiny.weight": (4, 4, 1, 1),
    }
    assert compressible_layers(shapes) == {"conv": (32, 32, 3, 3)}


def test_recipe_json_is_plain_enough_to_be_written_by_hand(tmp_path: Path) -> None:
    by_hand = {"default": {"bits": 6}, "components": {"unet": {"layers": {"conv_in": {"bits": 8}}}}}
    (tmp_path / "recipe.json").write_text(json.dumps(by_hand))
    assert Recipe.read(tmp_path / "recipe.json").layer("unet", "conv_in").bits == 8
