"""Compressed weights against coremltools' own decompression, through packages it writes."""

from __future__ import annotations

from typing import Any

import coremltools as ct
import coremltools.optimize as cto
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.ops.defs.iOS18.compression import (
    constexpr_blockwise_shift_scale,
    constexpr_lut_to_dense,
    constexpr_lut_to_sparse,
    constexpr_sparse_blockwise_shift_scale,
    constexpr_sparse_to_dense,
)
from coremltools.optimize._utils import pack_elements_into_bits

from sfmobile.errors import ArtifactError
from sfmobile.mlpackage.program import Constant, Program, load_program
from sfmobile.mlpackage.types import TensorType
from tests.runtime.mil.programs import evaluate, make_program

RANDOM = np.random.default_rng(0)
ZERO = np.zeros(1, dtype=np.float16)
SUB_BYTE = {1: types.np_uint1_dtype, 2: types.np_uint2_dtype, 3: types.np_uint3_dtype, 4: types.np_uint4_dtype}
SUB_BYTE[6] = types.np_uint6_dtype


def half(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float16)


def decoded(weight: Any, target: str) -> np.ndarray:
    """The weight that an operation reads: evaluated in a program that gives it away."""
    (found,) = evaluate(lambda a: mb.identity(x=weight()), ZERO, target=target)
    return found


def integers(bits: int, *shape: int) -> np.ndarray:
    values = RANDOM.integers(0, 2**bits, shape).astype(np.uint8)
    values.flat[0], values.flat[-1] = 0, 2**bits - 1
    return values


@pytest.mark.parametrize("shape", [(7,), (5, 3), (64, 16, 3, 3)])
@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_ios16_lookup_tables_of_packed_indices(bits: int, shape: tuple[int, ...]) -> None:
    lut, indices = half(2**bits), integers(bits, *shape)
    packed = pack_elements_into_bits(indices, bits)
    found = decoded(
        lambda: mb.constexpr_lut_to_dense(indices=packed, lut=lut, shape=np.array(shape, dtype=np.uint32)), "ios16"
    )
    np.testing.assert_array_equal(found, lut[indices].astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.uint8])
def test_ios16_lookup_tables_of_other_types(dtype: type) -> None:
    lut = RANDOM.integers(0, 100, 16).astype(dtype)
    indices = integers(4, 100, 60)
    packed = pack_elements_into_bits(indices, 4)

    def weight() -> Any:
        values = mb.constexpr_lut_to_dense(indices=packed, lut=lut, shape=np.array([100, 60], dtype=np.uint32))
        return values if dtype is np.float32 else mb.cast(x=values, dtype="int32")

    np.testing.assert_array_equal(decoded(weight, "ios17"), lut[indices])


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("groups", [(1, 1, 1, 1), (4, 1, 1, 1), (1, 2, 1, 1), (4, 2, 1, 1)])
def test_ios18_lookup_tables_per_tensor_and_group(bits: int, groups: tuple[int, ...]) -> None:
    indices = integers(bits, 8, 6, 3, 3)
    if bits in SUB_BYTE:
        indices = indices.astype(SUB_BYTE[bits])
    lut = half(*groups, 2**bits, 1)
    expected = constexpr_lut_to_dense.decompress(indices, lut, None)
    found = decoded(lambda: mb.constexpr_lut_to_dense(indices=indices, lut=lut), "ios18")
    np.testing.assert_array_equal(found, expected.astype(np.float32))


@pytest.mark.parametrize("vector_axis", [0, 1, -1])
@pytest.mark.parametrize("groups", [(1, 1, 1), (2, 1, 1), (1, 3, 1), (1, 1, 2)])
def test_ios18_vector_lookup_tables(groups: tuple[int, ...], vector_axis: int) -> None:
    """Against the formula: coremltools' own decompression takes groups along the vector axis alone."""
    indices = integers(4, 4, 6, 2).astype(SUB_BYTE[4])
    lut = half(*groups, 16, 3)
    axis = vector_axis % 3
    expected = np.empty([size * (3 if place == axis else 1) for place, size in enumerate(indices.shape)], np.float32)
    for place, index in np.ndenumerate(indices):
        group = tuple(p * g // s for p, g, s in zip(place, groups, indices.shape, strict=True))
        for offset, value in enumerate(lut[(*group, index)]):
            target = list(place)
            target[axis] = place[axis] * 3 + offset
            expected[tuple(target)] = value
    found = decoded(
        lambda: mb.constexpr_lut_to_dense(indices=indices, lut=lut, vector_axis=np.int32(vector_axis)), "ios18"
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_affine_dequantize_per_channel_and_per_tensor(axis: int, dtype: type) -> None:
    limits = np.iinfo(dtype)
    data = RANDOM.integers(limits.min, limits.max, (6, 6, 6)).astype(dtype)
    for scale, zero in ((half(6), RANDOM.integers(0, 9, 6).astype(dtype)), (half(1)[0], dtype(3))):
        shape = [1, 1, 1]
        shape[axis] = -1
        wide_scale, wide_zero = (
            v.astype(np.float32).reshape(shape) if v.ndim else np.float32(v)
            for v in (np.asarray(scale), np.asarray(zero))
        )
        expected = ((data - wide_zero) * wide_scale).astype(np.float16)
        found = decoded(
            lambda s=scale, z=zero: mb.constexpr_affine_dequantize(
                quantized_data=data, zero_point=z, scale=s, axis=np.int32(axis)
            ),
            "ios16",
        )
        np.testing.assert_array_equal(found, expected.astype(np.float32))


@pytest.mark.parametrize("kind", [np.int8, np.uint8, types.np_int4_dtype, types.np_uint4_dtype])
@pytest.mark.parametrize("blocks", [(1, 1), (8, 1), (4, 3), (8, 6)])
@pytest.mark.parametrize("with_offset", [False, True])
def test_blockwise_shift_scale(kind: Any, blocks: tuple[int, ...], with_offset: bool) -> None:
    narrow = kind in (types.np_int4_dtype, types.np_uint4_dtype)
    signed = kind in (np.int8, types.np_int4_dtype)
    low, high = (-8, 8) if narrow and signed else (0, 16) if narrow else (-128, 128) if signed else (0, 256)
    data = RANDOM.integers(low, high, (8, 6)).astype(kind)
    scale = half(*blocks)
    offset = RANDOM.integers(max(low, 0), min(high, 7), blocks).astype(kind) if with_offset else None
    given = {} if offset is None else {"offset": offset}
    expected = constexpr_blockwise_shift_scale.decompress(data, scale, offset)
    found = decoded(lambda: mb.constexpr_blockwise_shift_scale(data=data, scale=scale, **given), "ios18")
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_a_looked_up_weight_may_be_scaled() -> None:
    """The chained form: a table of int8 entries, then a scale per channel."""
    indices = integers(4, 8, 6).astype(SUB_BYTE[4])
    lut = RANDOM.integers(-100, 100, (1, 1, 16, 1)).astype(np.int8)
    scale = half(8, 1)
    expected = (lut.reshape(-1)[indices].astype(np.float32) * scale.astype(np.float32)).astype(np.float16)

    def weight() -> Any:
        return mb.constexpr_blockwise_shift_scale(data=mb.constexpr_lut_to_dense(indices=indices, lut=lut), scale=scale)

    np.testing.assert_array_equal(decoded(weight, "ios18"), expected.astype(np.float32))


@pytest.mark.parametrize("target", ["ios16", "ios18"])
def test_constexpr_cast_widens(target: str) -> None:
    values = half(5, 4)
    found = decoded(lambda: mb.constexpr_cast(source_val=values, output_dtype="fp32"), target)
    np.testing.assert_array_equal(found, values.astype(np.float32))


def sparse(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    mask = (RANDOM.random(shape) > 0.6).astype(types.np_uint1_dtype)
    return mask, half(int(np.count_nonzero(mask)))


def test_ios16_sparse_weights() -> None:
    mask, values = sparse(5, 7)
    expected = np.zeros((5, 7), dtype=np.float32)
    expected[mask != 0] = values
    packed = np.packbits(np.asarray(mask, dtype=np.uint8), bitorder="little")
    found = decoded(
        lambda: mb.constexpr_sparse_to_dense(nonzero_data=values, mask=packed, shape=np.array([5, 7], dtype=np.uint32)),
        "ios16",
    )
    np.testing.assert_array_equal(found, expected)


def test_ios18_sparse_weights() -> None:
    mask, values = sparse(5, 7)
    expected = constexpr_sparse_to_dense.decompress(values, mask)
    found = decoded(lambda: mb.constexpr_sparse_to_dense(nonzero_data=values, mask=mask), "ios18")
    np.testing.assert_array_equal(found, expected.astype(np.float32))


@pytest.mark.parametrize("vector_size", [1, 2])
def test_ios18_sparse_looked_up_weights(vector_size: int) -> None:
    mask, values = sparse(6, 8)
    nonzero = RANDOM.integers(0, 4, values.size).astype(SUB_BYTE[2])
    lut = half(1, 1, 4, vector_size)
    axis = {"vector_axis": np.int32(0)} if vector_size > 1 else {}
    dense_mask, dense = constexpr_lut_to_sparse.decompress(mask, nonzero, lut, axis.get("vector_axis"))
    expected = constexpr_sparse_to_dense.decompress(dense, dense_mask)

    def weight() -> Any:
        out_mask, out = mb.constexpr_lut_to_sparse(indices_mask=mask, indices_nonzero_data=nonzero, lut=lut, **axis)
        return mb.constexpr_sparse_to_dense(nonzero_data=out, mask=out_mask)

    np.testing.assert_array_equal(decoded(weight, "ios18"), expected.astype(np.float32))


def test_ios18_sparse_scaled_weights() -> None:
    mask, values = sparse(6, 8)
    nonzero = RANDOM.integers(-100, 100, values.size).astype(np.int8)
    scale, offset = half(6, 1), RANDOM.integers(0, 5, (6, 1)).astype(np.int8)
    dense_mask, dense = constexpr_sparse_blockwise_shift_scale.decompress(mask, nonzero, scale, offset)
    expected = constexpr_sparse_to_dense.decompress(dense, dense_mask)

    def weight() -> Any:
        out_mask, out = mb.constexpr_sparse_blockwise_shift_scale(
            data_mask=mask, nonzero_data=nonzero, scale=scale, offset=offset
        )
        return mb.constexpr_sparse_to_dense(nonzero_data=out, mask=out_mask)

    np.testing.assert_array_equal(decoded(weight, "ios18"), expected.astype(np.float32))


CONFIGS: dict[str, tuple[str, Any]] = {
    "linear 8 bits": ("ios16", cto.coreml.OpLinearQuantizerConfig(mode="linear", weight_threshold=0)),
    "linear 4 bits per block": (
        "ios18",
        cto.coreml.OpLinearQuantizerConfig(
            mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=8, weight_threshold=0
        ),
    ),
    "palettized 6 bits": ("ios16", cto.coreml.OpPalettizerConfig(mode="uniform", nbits=6, weight_threshold=0)),
    "palettized 3 bits": ("ios18", cto.coreml.OpPalettizerConfig(mode="uniform", nbits=3, weight_threshold=0)),
    "palettized 4 bits in groups": (
        "ios18",
        cto.coreml.OpPalettizerConfig(
            mode="uniform", nbits=4, granularity="per_grouped_channel", group_size=8, weight_threshold=0
        ),
    ),
    "pruned": ("ios16", cto.coreml.OpMagnitudePrunerConfig(target_sparsity=0.6, weight_threshold=0)),
    "pruned ios18": ("ios18", cto.coreml.OpMagnitudePrunerConfig(target_sparsity=0.6, weight_threshold=0)),
}
COMPRESS = {
    "OpLinearQuantizerConfig": cto.coreml.linear_quantize_weights,
    "OpPalettizerConfig": cto.coreml.palettize_weights,
    "OpMagnitudePrunerConfig": cto.coreml.prune_weights,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_coremltools_optimizers_write_is_what_it_decompresses(name: str, tmp_path: Any) -> None:
    """A convolution compressed by coremltools: our decoding equals its own `decompress_weights`."""
    target, op_config = CONFIGS[name]
    kernel = half(16, 8, 3, 3)

    @mb.program(
        input_specs=[mb.TensorSpec(shape=(1, 8, 6, 6), dtype=types.fp16)],
        opset_version=getattr(ct.target, target.replace("ios", "iOS")),
    )
    def program(x: Any) -> Any:
        return mb.conv(x=x, weight=kernel, pad_type="same", name="out")

    model = ct.convert(
        program,
        minimum_deployment_target=getattr(ct.target, target.replace("ios", "iOS")),
        compute_precision=ct.precision.FLOAT16,
        skip_model_load=True,
    )
    config = cto.coreml.OptimizationConfig(global_config=op_config)
    compressed = COMPRESS[type(op_config).__name__](model, config)
    weights = []
    for kind, saved in (("compressed", compressed), ("dense", cto.coreml.decompress_weights(compressed))):
        path = tmp_path / f"{kind}.mlpackage"
        saved.save(str(path))
        loaded = load_program(path)
        (conv,) = [operation for operation in loaded.operations if operation.kind == "conv"]
        constant = loaded.constants[str(conv.inputs["weight"][0])]
        assert constant.compressed == (kind == "compressed")
        weights.append(np.asarray(constant.load(), dtype=np.float32))
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], kernel.astype(np.float32))


def palettized() -> Program:
    packed = pack_elements_into_bits(integers(4, 100), 4)
    shape = np.array([100], dtype=np.uint32)
    return make_program(
        lambda a: mb.identity(x=mb.constexpr_lut_to_dense(indices=packed, lut=half(16), shape=shape)), {"a": ZERO}
    )


@pytest.mark.parametrize(
    ("argument", "value", "found"),
    [
        ("lut", np.zeros(5, np.float16), "a lookup table of 5 entries; expected 2, 4, 8, 16, 64 or 256"),
        ("lut", np.zeros(64, np.float16), "50 bytes of 6-bit indices for a weight of shape"),
        ("shape", np.array([90], np.uint32), "50 bytes of 4-bit indices"),
        ("shape", np.array([10, 10], np.uint32), r"decompresses to shape \(10, 10\); expected \(100,\)"),
        ("scale", np.zeros(1, np.float16), "unexpected keyword argument 'scale'"),
    ],
)
def test_arguments_that_contradict_each_other_name_the_operation(argument: str, value: np.ndarray, found: str) -> None:
    program = palettized()
    (constant,) = [item for item in program.constants.values() if item.compressed]
    operation = constant.load.args[0]  # type: ignore[attr-defined]
    operation.inputs[argument] = (Constant(TensorType("fp16", value.shape), lambda: value),)
    with pytest.raises(ArtifactError, match=rf"program\.mlpackage: operation {operation.position} .*{found}"):
        constant.load()
