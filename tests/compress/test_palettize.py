from __future__ import annotations

import numpy as np
import pytest

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.compress.kmeans import palettize
from sfmobile.compress.palettize import palettize_weight
from sfmobile.compress.recipe import LayerRecipe
from tests.tiny import REPOSITORY


def weight(seed: int, shape: tuple[int, ...] = (16, 8, 3, 3)) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * np.linspace(0.1, 3, shape[0])[:, None, None, None]).astype(
        np.float16
    )


@pytest.mark.parametrize("group_size", [None, 1, 4, 16])
def test_each_group_of_output_channels_gets_its_own_exact_table(group_size: int | None) -> None:
    value = weight(0)
    palettized = palettize_weight(value, LayerRecipe(bits=3, group_size=group_size))
    size = group_size or 16
    assert palettized.luts.shape == (16 // size, 8)
    expected = [palettize(value[start : start + size], 3) for start in range(0, 16, size)]
    assert palettized.error == pytest.approx(sum(palette.error for palette in expected))
    np.testing.assert_array_equal(palettized.luts, [palette.lut for palette in expected])
    np.testing.assert_array_equal(
        palettized.dense(), np.concatenate([palette.lut[palette.indices] for palette in expected])
    )


@pytest.mark.parametrize(
    ("bits", "group_size"), [(1, None), (2, None), (3, None), (4, None), (6, None), (8, None), (4, 16), (6, 16)]
)
def test_error_on_the_built_in_model_s_weights_is_never_above_that_of_coremltools(
    bits: int, group_size: int | None
) -> None:
    from coremltools.optimize.coreml._quantization_passes import palettize_weights

    state = Checkpoint.open(REPOSITORY / "models" / "glyph").state_dict("unet")
    kernels = [value.numpy() for value in state.values() if value.ndim == 4 and value.shape[0] % 16 == 0]
    largest = max(kernels, key=lambda value: value.size)
    blocks = [group_size or 0, *[0] * (largest.ndim - 1)]
    theirs = palettize_weights.blockwise_compress(largest, "KMEANS", bits, blocks)
    rows = theirs.indices.reshape(theirs.lut.shape[0], -1)
    dense = np.take_along_axis(theirs.lut.reshape(theirs.lut.shape[0], -1), rows, axis=1).reshape(largest.shape)
    ours = palettize_weight(largest, LayerRecipe(bits=bits, group_size=group_size)).dense()
    errors = [((largest.astype(np.float64) - values.astype(np.float64)) ** 2).sum() for values in (ours, dense)]
    assert errors[0] <= errors[1] * (1 + 1e-5)


def test_smaller_groups_never_lose() -> None:
    errors = [palettize_weight(weight(1), LayerRecipe(bits=2, group_size=size)).error for size in (16, 8, 4, 2, 1)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.7 * errors[0]


def test_group_that_does_not_divide_the_channels_falls_back_to_one_table() -> None:
    assert palettize_weight(weight(0), LayerRecipe(bits=2, group_size=5)).luts.shape == (1, 4)


def test_importance_reaches_every_group() -> None:
    value = weight(2)
    importance = np.ones(value.shape, np.float32)
    importance[8:] = np.where(value[8:] > 0, 50, 1)
    plain = palettize_weight(value, LayerRecipe(bits=2, group_size=8))
    weighted = palettize_weight(value, LayerRecipe(bits=2, group_size=8), importance)
    np.testing.assert_array_equal(weighted.luts[0], plain.luts[0])
    assert (weighted.luts[1] != plain.luts[1]).any()
