"""Palettized weights handed over as they are stored: indices and tables, decoded by Apple's runtime and not by us."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from sfmobile.mlpackage.value import unpack_bits
from sfmobile.runtime.coreai import library

if TYPE_CHECKING:
    from coreai.authoring import Value

    from sfmobile.mlpackage.program import Constant

# Core AI's widths of an index; Core ML's 1 and 3 bits are stored in the next one.
WIDTHS = (2, 4, 6, 8)


def native(constant: Constant, number: type[np.float16] | type[np.float32]) -> Value | None:
    """A palettized constant as `lut_to_dense`; None for another compression, whose decoded values are handed over.

    number: the type of the table's values in the graph.
    """
    from coreai.authoring import lut_to_dense

    assert constant.encoded is not None
    kind, arguments = constant.encoded()
    if kind != "constexpr_lut_to_dense":
        return None
    lut, indices = np.asarray(arguments["lut"]), np.asarray(arguments["indices"])
    axis = arguments.get("vector_axis")
    if "shape" in arguments:
        # iOS 16: one table for all, packed indices.
        shape = tuple(int(size) for size in np.asarray(arguments["shape"]).reshape(-1))
        bits = (lut.size - 1).bit_length()
        indices = unpack_bits(indices, bits, math.prod(shape)).reshape(shape)
        lut = lut.reshape(*[1] * len(shape), lut.size, 1)
    if lut.dtype.kind != "f" or lut.shape[-1] != 1:
        return None
    entries = lut.shape[-2]
    width = next(width for width in WIDTHS if entries <= 1 << width)
    spare = (1 << width) - entries
    lut = np.pad(lut, [*[(0, 0)] * (lut.ndim - 2), (0, spare), (0, 0)])
    packed = library.packed_constant(pack(indices.reshape(-1), width), indices.shape, width)
    return lut_to_dense(packed, library.constant(lut.astype(number)), library.constant(np.array(axis or 0, np.int16)))


def pack(indices: np.ndarray, bits: int) -> np.ndarray:
    """Indices below 2^`bits` as a stream of bits, the first in the lowest, as uint8."""
    if bits == 8:
        return indices.astype(np.uint8)
    places = np.arange(bits, dtype=np.uint8)
    stream = (indices.astype(np.uint8)[:, None] >> places) & np.uint8(1)
    return np.packbits(stream.reshape(-1), bitorder="little")
