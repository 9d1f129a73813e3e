"""Palettized weights decoded by the letter of Core ML's definition, apart from the decoder that the runtime uses.

Bit by bit, sharing no line with `mlpackage.constexpr`, so that what is proved of stored weights doesn't rest on it.
Tests hold both to coremltools' own decompression.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfmobile.compress.compiled import compiled
from sfmobile.mlpackage.program import Constant

LOOKUP = "constexpr_lut_to_dense"


def decode(constant: Constant) -> np.ndarray:
    """A constant's dense values: a lookup table's decoded here, others as they are stored."""
    if constant.encoded is not None:
        kind, arguments = constant.encoded()
        if kind == LOOKUP:
            lut, indices = np.asarray(arguments["lut"]), np.asarray(arguments["indices"])
            if "shape" in arguments:
                return packed_lookup(indices, lut, tuple(int(size) for size in np.asarray(arguments["shape"])))
            if lut.shape[-1] == 1:
                return grouped_lookup(indices, lut)
    return np.asarray(constant.load())


def packed_lookup(packed: np.ndarray, lut: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """iOS 16's form: a table of 2^n entries, n-bit indices in one stream of bits, the lowest bit first.

    Raises `ValueError` for a table of another size or a stream that is too short.
    """
    bits = (lut.size - 1).bit_length()
    # Its bit pattern is what is looked up: the compiled loops know no half floats.
    words = np.ascontiguousarray(lut.reshape(-1)).view(f"u{lut.itemsize}")
    dense = np.empty(math.prod(shape), words.dtype)
    if lut.size != 1 << bits:
        raise ValueError(f"a table of {lut.size} entries; expected a power of two")
    if packed.size * 8 < dense.size * bits:
        raise ValueError(f"{packed.size} bytes of indices; expected {dense.size} of {bits} bits each")
    _look_up(np.ascontiguousarray(packed).reshape(-1).view(np.uint8), words, bits, dense)
    return dense.view(lut.dtype).reshape(shape)


@compiled
def _look_up(packed: NDArray[np.uint8], lut: NDArray[Any], bits: int, dense: NDArray[Any]) -> None:
    """The entry at each index, bit by bit."""
    for position in range(dense.size):
        index = 0
        for bit in range(bits):
            place = position * bits + bit
            index |= ((packed[place >> 3] >> (place & 7)) & 1) << bit
        dense[position] = lut[index]


def grouped_lookup(indices: np.ndarray, lut: np.ndarray) -> np.ndarray:
    """iOS 18's form: one table per block of the weight; lut (blocks along each axis..., entries, 1)."""
    places = []
    for axis, (size, blocks) in enumerate(zip(indices.shape, lut.shape, strict=False)):
        along = [1] * indices.ndim
        along[axis] = size
        places.append((np.arange(size) // (size // blocks)).reshape(along))
    dense: np.ndarray = lut[(*places, indices, 0)]
    return dense
