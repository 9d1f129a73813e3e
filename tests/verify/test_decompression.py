"""Palettes decoded by the letter, against coremltools' own decompression."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.ops.defs.iOS16.constexpr_ops import constexpr_lut_to_dense as ios16
from coremltools.converters.mil.mil.ops.defs.iOS18.compression import constexpr_lut_to_dense as ios18
from coremltools.optimize._utils import pack_elements_into_bits

from sfmobile.verify.decompression import grouped_lookup, packed_lookup

RANDOM = np.random.default_rng(0)
NARROW = {1: types.np_uint1_dtype, 2: types.np_uint2_dtype, 3: types.np_uint3_dtype, 4: types.np_uint4_dtype}
NARROW |= {6: types.np_uint6_dtype}


@pytest.mark.parametrize("shape", [(7,), (5, 3), (16, 8, 3, 3)])
@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_packed_palettes(bits: int, shape: tuple[int, ...]) -> None:
    lut = RANDOM.normal(size=2**bits).astype(np.float16)
    indices = RANDOM.integers(0, 2**bits, shape).astype(np.uint8)
    packed = pack_elements_into_bits(indices, bits)
    np.testing.assert_array_equal(packed_lookup(packed, lut, shape), ios16.decompress(lut, packed, shape))
    np.testing.assert_array_equal(packed_lookup(packed, lut, shape), lut[indices])


@pytest.mark.parametrize("groups", [(1, 1, 1, 1), (4, 1, 1, 1), (4, 2, 1, 1), (1, 1, 3, 1)])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_grouped_palettes(bits: int, groups: tuple[int, ...]) -> None:
    lut = RANDOM.normal(size=(*groups, 2**bits, 1)).astype(np.float16)
    indices = RANDOM.integers(0, 2**bits, (8, 4, 3, 3)).astype(np.uint8)
    narrow = indices.astype(NARROW[bits]) if bits in NARROW else indices
    np.testing.assert_array_equal(grouped_lookup(indices, lut), ios18.decompress(narrow, lut, None))
