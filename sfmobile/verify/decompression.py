"""Palettized weights decoded by the letter of Core ML's definition, apart from the decoder that the runtime uses.

Bit by bit, sharing no line with `mlpackage.constexpr`, so that what is proved of stored weights doesn't rest on it.
Tests hold both to coremltools' own decompression.
"""

from __future__ import annotations

import math

import numpy as np

from sfmobile.mlpackage.program import Constant

LOOKUP = "constexpr_lut_to_dense"
# Indices decoded at a time, whole bytes of any number of bits: a stream of bits takes a byte for each.
PIECE = 1 << 16


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
    """iOS 16's form: a table of 2^n entries, n-bit indices in one stream of bits, the lowest bit first."""
    bits = (lut.size - 1).bit_length()
    dense = np.empty(math.prod(shape), lut.dtype)
    for start in range(0, dense.size, PIECE):
        stream = np.unpackbits(packed[start * bits // 8 :][: PIECE * bits // 8], bitorder="little")
        piece = dense[start : start + PIECE]
        indices = np.zeros(piece.size, np.uint8)
        for bit in range(bits):
            indices |= stream[bit::bits][: piece.size] << np.uint8(bit)
        piece[:] = lut[indices]
    return dense.reshape(shape)


def grouped_lookup(indices: np.ndarray, lut: np.ndarray) -> np.ndarray:
    """iOS 18's form: one table per block of the weight; lut (blocks along each axis..., entries, 1)."""
    places = []
    for axis, (size, blocks) in enumerate(zip(indices.shape, lut.shape, strict=False)):
        along = [1] * indices.ndim
        along[axis] = size
        places.append((np.arange(size) // (size // blocks)).reshape(along))
    dense: np.ndarray = lut[(*places, indices, 0)]
    return dense
