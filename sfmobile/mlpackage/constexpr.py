"""Compressed weights: every constexpr_* op that coremltools 9 writes for iOS 16 to 18, decoded to dense arrays.

The ops keep their names and the arguments of the MIL reference; iOS 16 passes them as attributes, iOS 18 as inputs,
which is the same to the functions here. Floats are returned as float32 whose values are exactly those of the declared
type: a float16 weight is rounded to float16 as on the device, then stored wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np

from sfmobile.mlpackage.types import TensorType
from sfmobile.mlpackage.value import unpack_bits

Argument: TypeAlias = "np.ndarray | str"
Decoder: TypeAlias = "Callable[..., np.ndarray | tuple[np.ndarray, np.ndarray]]"
SomeDecoder = TypeVar("SomeDecoder", bound="Decoder")

DECODERS: dict[str, Decoder] = {}


def _decodes(name: str) -> Callable[[SomeDecoder], SomeDecoder]:
    def register(decoder: SomeDecoder) -> SomeDecoder:
        DECODERS[name] = decoder
        return decoder

    return register


def decode(kind: str, arguments: Mapping[str, Argument], data_types: Sequence[str]) -> tuple[np.ndarray, ...]:
    """All outputs of the constexpr op `kind`, declared as `data_types`.

    Raises `ValueError` if the arguments contradict each other.
    """
    decoded = DECODERS[kind](**arguments)
    outputs = decoded if isinstance(decoded, tuple) else (decoded,)
    if "shift_scale" not in kind and "affine" not in kind:
        return outputs  # Looked up, not computed: the values are of their type already.
    return tuple(
        _rounded(values) if data_type == "fp16" else values
        for values, data_type in zip(outputs, data_types, strict=True)
    )


class Palette(NamedTuple):
    """What a lookup table's shape says: bits of one index, how many tables there are, weights that an entry holds."""

    bits: int
    tables: int
    vector: int


def palette_of(lut: TensorType) -> Palette:
    """iOS 16 has one table (entries,); iOS 18 has (groups per axis..., entries, vector size)."""
    *groups, entries, vector = lut.sizes if len(lut.sizes) > 1 else (*lut.sizes, 1)
    return Palette(entries.bit_length() - 1, math.prod(groups), vector)


def _wide(values: np.ndarray) -> np.ndarray:
    """float16 widened to float32; everything else as it is."""
    return values.astype(np.float32) if values.dtype == np.float16 else values


def _rounded(values: np.ndarray) -> np.ndarray:
    """float32 `values` rounded to float16, stored wide."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


def _integers(values: Argument) -> tuple[int, ...]:
    return tuple(int(value) for value in np.asarray(values).reshape(-1))


def _repeated(blocks: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    """`blocks` with every element repeated so often that its shape becomes `shape` (same rank, dividing sizes)."""
    if blocks.ndim != len(shape) or any(size % count for size, count in zip(shape, blocks.shape, strict=True)):
        raise ValueError(f"'{name}' of shape {blocks.shape} doesn't divide data of shape {shape}")
    for axis, (size, count) in enumerate(zip(shape, blocks.shape, strict=True)):
        if count not in (1, size):
            blocks = np.repeat(blocks, size // count, axis=axis)
    return blocks


def _bits_of(lut: np.ndarray, palette_axis: int) -> int:
    entries = lut.shape[palette_axis]
    bits = int(entries).bit_length() - 1
    if entries != 2**bits or not 1 <= bits <= 8:
        raise ValueError(f"a lookup table of {entries} entries; expected 2, 4, 8, 16, 64 or 256")
    return bits


def _packed_lookup(packed: np.ndarray, lut: np.ndarray, bits: int, count: int) -> np.ndarray:
    """`count` entries of `lut` (1-D) at the packed `bits`-bit indices.

    Whole groups of indices are looked up at once: a table holds the decoded group for each value of its bits, which
    reads and writes several weights per step.
    """
    if lut.dtype.itemsize not in (1, 2, 4) or count < 4096 or bits == 3:
        singly: np.ndarray = lut[unpack_bits(packed, bits, count)]
        return singly
    # Group sizes keep the table within the second-level cache: 8 bits decode 1-byte groups of one weight.
    group = {1: 8, 2: 4, 4: 2, 6: 2, 8: 1}[bits]
    keys = np.arange(2 ** (bits * group), dtype=np.uint32)
    digits = (keys[:, None] >> (np.arange(group, dtype=np.uint32) * np.uint32(bits))) & np.uint32(2**bits - 1)
    table = np.ascontiguousarray(lut[digits]).view(np.dtype((np.void, group * lut.dtype.itemsize))).reshape(-1)
    if bits == 6:
        # Three bytes hold two groups of 12 bits.
        padded = np.zeros(-(-packed.size // 3) * 3, dtype=np.uint8)
        padded[: packed.size] = packed
        first, second, third = (
            padded[0::3].astype(np.uint16),
            padded[1::3].astype(np.uint16),
            padded[2::3].astype(np.uint16),
        )
        indices = np.empty(padded.size // 3 * 2, dtype=np.uint16)
        indices[0::2] = first | ((second & 15) << 8)
        indices[1::2] = (second >> 4) | (third << 4)
    else:
        indices = packed
    values: np.ndarray = np.take(table, indices).view(lut.dtype)[:count]
    return values


@_decodes("constexpr_affine_dequantize")
def affine_dequantize(
    *, quantized_data: np.ndarray, zero_point: np.ndarray, scale: np.ndarray, axis: np.ndarray
) -> np.ndarray:
    """scale * (quantized_data - zero_point), both scalars or vectors along `axis`."""
    shape = [1] * quantized_data.ndim
    shape[int(axis)] = -1
    wide_scale, wide_zero = (
        values.astype(np.float32).reshape(shape if values.ndim else ()) for values in (scale, zero_point)
    )
    return (quantized_data.astype(np.float32) - wide_zero) * wide_scale


@_decodes("constexpr_blockwise_shift_scale")
def blockwise_shift_scale(*, data: np.ndarray, scale: np.ndarray, offset: np.ndarray | None = None) -> np.ndarray:
    """scale * (data - offset), one scale and offset per block; the block size is data.shape / scale.shape."""
    values: np.ndarray = data.astype(np.float32)
    if offset is not None:
        values -= _repeated(offset.astype(np.float32), data.shape, "offset")
    values *= _repeated(scale.astype(np.float32), data.shape, "scale")
    return values


@_decodes("constexpr_cast")
def cast(*, source_val: np.ndarray, output_dtype: str) -> np.ndarray:
    """float16 to float32, the only cast there is."""
    if output_dtype != "fp32":
        raise ValueError(f"output_dtype '{output_dtype}'; expected fp32")
    return source_val.astype(np.float32)


@_decodes("constexpr_lut_to_dense")
def lut_to_dense(
    *,
    indices: np.ndarray,
    lut: np.ndarray,
    shape: np.ndarray | None = None,
    vector_axis: np.ndarray | None = None,
) -> np.ndarray:
    """Entries of `lut` at `indices`.

    iOS 16 (`shape` given): `indices` are packed bytes, `lut` is 1-D. iOS 18: `indices` have the shape of the weight
    (before vectors are spread along `vector_axis`), `lut` is (groups per axis..., entries, vector size).
    """
    if shape is not None:
        bits = _bits_of(lut, 0)
        dense_shape = _integers(shape)
        count = math.prod(dense_shape)
        if lut.ndim != 1 or indices.size != -(-count * bits // 8):
            raise ValueError(f"{indices.size} bytes of {bits}-bit indices for a weight of shape {dense_shape}")
        dense: np.ndarray = _packed_lookup(indices, _wide(lut), bits, count).reshape(dense_shape)
        return dense
    return _grouped_lookup(indices, _wide(lut), None if vector_axis is None else int(vector_axis))


def _grouped_lookup(indices: np.ndarray, lut: np.ndarray, vector_axis: int | None) -> np.ndarray:
    """iOS 18's lookup: one table per block of `indices`, each entry a vector along `vector_axis`."""
    rank = indices.ndim
    groups = lut.shape[:-2]
    if lut.ndim != rank + 2 or any(size % count for size, count in zip(indices.shape, groups, strict=True)):
        raise ValueError(f"a lookup table of shape {lut.shape} for indices of shape {indices.shape}")
    entries, vector_size = lut.shape[-2:]
    if vector_size > 1 and vector_axis is None:
        raise ValueError(f"vectors of {vector_size} values without a vector_axis")
    if int(indices.max(initial=0)) >= entries:
        raise ValueError(f"index {int(indices.max())} into a lookup table of {entries} entries")
    # Split every axis into (groups, block): all indices of one table then form one row.
    split = [part for size, count in zip(indices.shape, groups, strict=True) for part in (count, size // count)]
    group_axes, block_axes = range(0, 2 * rank, 2), range(1, 2 * rank, 2)
    order = (*group_axes, *block_axes)
    rows = indices.reshape(split).transpose(order).reshape(math.prod(groups), -1)
    tables = lut.reshape(-1, entries, vector_size)
    flat = np.empty((*rows.shape, vector_size), dtype=lut.dtype)
    for table, row, out in zip(tables, rows, flat, strict=True):
        np.take(table, row, axis=0, out=out)
    ordered = [split[axis] for axis in order]
    dense = flat.reshape(*ordered, vector_size).transpose(*np.argsort(order), 2 * rank)
    dense = dense.reshape(*indices.shape, vector_size)
    if vector_axis is None or vector_size == 1:
        return np.ascontiguousarray(dense[..., 0])
    axis = vector_axis % rank
    spread = np.moveaxis(dense, -1, axis + 1)
    shape = list(indices.shape)
    shape[axis] *= vector_size
    return np.ascontiguousarray(spread).reshape(shape)


@_decodes("constexpr_sparse_to_dense")
def sparse_to_dense(*, nonzero_data: np.ndarray, mask: np.ndarray, shape: np.ndarray | None = None) -> np.ndarray:
    """`nonzero_data` (1-D) at the set bits of `mask`, zero elsewhere. iOS 16: packed mask bytes and a `shape`."""
    if shape is not None:
        dense_shape = _integers(shape)
        mask = unpack_bits(mask, 1, math.prod(dense_shape)).reshape(dense_shape)
    where = mask.astype(bool)
    if int(where.sum()) != nonzero_data.size:
        raise ValueError(f"{int(where.sum())} set bits in the mask for {nonzero_data.size} values")
    values = _wide(nonzero_data)
    dense = np.zeros(where.shape, dtype=values.dtype)
    dense[where] = values.reshape(-1)
    return dense


@_decodes("constexpr_lut_to_sparse")
def lut_to_sparse(
    *,
    indices_mask: np.ndarray,
    indices_nonzero_data: np.ndarray,
    lut: np.ndarray,
    vector_axis: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Mask and values (1-D) of the weight: the lookup applies to the nonzero entries alone."""
    indices = sparse_to_dense(nonzero_data=indices_nonzero_data, mask=indices_mask)
    axis = None if vector_axis is None else int(vector_axis)
    dense = _grouped_lookup(indices, _wide(lut), axis)
    mask = indices_mask
    if lut.shape[-1] > 1:
        mask = np.repeat(mask, lut.shape[-1], axis=axis)
    return mask, dense[mask.astype(bool)]


@_decodes("constexpr_sparse_blockwise_shift_scale")
def sparse_blockwise_shift_scale(
    *, data_mask: np.ndarray, nonzero_data: np.ndarray, scale: np.ndarray, offset: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mask and values (1-D) of the weight: scale * (data - offset) on the nonzero entries alone."""
    dense = blockwise_shift_scale(
        data=sparse_to_dense(nonzero_data=nonzero_data, mask=data_mask), scale=scale, offset=offset
    )
    return data_mask, dense[data_mask.astype(bool)]
