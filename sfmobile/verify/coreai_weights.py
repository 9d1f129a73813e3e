"""Every weight that an .aimodel stores, against the checkpoint's, one by one and without running anything.

An .aimodel doesn't say which parameter a constant is. So each parameter looks for the constant that holds its values:
of its layout and, uncompressed, equal to the bit; palettized, the nearest, which may be off by no more than the best
tables of that many entries are. Which operation reads it is what the file's evaluation against the network says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sfmobile.compress.recipe import FULL_BITS, LayerRecipe
from sfmobile.runtime.coreai import library
from sfmobile.runtime.coreai.asset import check_asset
from sfmobile.verify.decompression import grouped_lookup
from sfmobile.verify.weights import StoredWeights, WeightFault, compare_weight, layout_of, squared_error

if TYPE_CHECKING:
    from torch import Tensor

Candidate = tuple[np.ndarray, LayerRecipe]


def asset_weights(
    paths: Sequence[Path],
    source: Mapping[str, Tensor],
    recipe: Callable[[str], LayerRecipe | None],
    advance: Callable[[int], None] = lambda weights: None,
) -> StoredWeights:
    """Compare what the .aimodels at `paths`, the chunks of one component, store with the parameters of its network.

    source, recipe and `advance` as in `weights.compare_weights`. Raises as `Asset` does for what isn't whole.
    """
    candidates = _candidates(paths)
    whole = 0
    faults: list[WeightFault] = []
    worst: tuple[str, float] | None = None
    compressed = 0
    for parameter, tensor in source.items():
        expected = tensor.half().numpy()
        advance(expected.size)
        own = candidates.get(layout_of(expected.shape))
        if not own:
            faults.append(WeightFault(parameter, "missing", None, 0.0, "the file has no constant of its shape"))
            continue
        found, stored = min(own, key=lambda one: squared_error(one[0].reshape(-1), expected.reshape(-1)))
        wanted = recipe(parameter)
        if wanted is not None and stored.bits <= wanted.bits < FULL_BITS:
            # Fewer entries may be used than there are; the error is held to what is recorded.
            stored = stored.model_copy(update={"bits": wanted.bits})
        fault, error = compare_weight(parameter, stored, found, expected, wanted)
        whole += found.size == expected.size
        compressed += stored.bits != FULL_BITS
        if math.isfinite(error) and error > (worst[1] if worst else 0.0):
            worst = parameter, error
        if fault is not None:
            faults.append(fault)
    return StoredWeights(len(source), compressed, whole == len(source), worst, tuple(faults))


def _candidates(paths: Sequence[Path]) -> dict[tuple[int, ...], list[Candidate]]:
    """What the files store, each once, by layout: dense values and how they are stored."""
    from coreai.authoring import AIModelAsset

    library.require()
    found: dict[tuple[int, ...], list[Candidate]] = {}
    seen: set[tuple[tuple[int, ...], bytes]] = set()
    for path in paths:
        check_asset(path)
        for constant in library.stored_constants(AIModelAsset.load(path).program):
            dense, stored = _decoded(constant)
            layout = layout_of(dense.shape)
            key = layout, dense.tobytes()
            if key not in seen:
                seen.add(key)
                found.setdefault(layout, []).append((dense, stored))
    return found


def _decoded(constant: library.StoredConstant) -> Candidate:
    if constant.indices is None or constant.lut is None:
        assert constant.values is not None
        return constant.values, LayerRecipe(bits=FULL_BITS)
    tables = math.prod(constant.lut.shape[:-2])
    # Three bits are stored in four: what tells are the entries that are used.
    bits = max(int(constant.indices.max()).bit_length(), 1)
    channels = constant.indices.shape[0]
    stored = LayerRecipe(bits=bits, group_size=None if tables == 1 else channels // tables)
    return grouped_lookup(constant.indices, constant.lut), stored
