"""ML Programs bridged to Core AI, executed by Apple's runtime, against the mil runtime's fp32 evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from coremltools.optimize._utils import pack_elements_into_bits

from sfmobile.bundle.directory import Bundle
from sfmobile.errors import UnavailableError
from sfmobile.mlpackage.program import Program, load_program
from sfmobile.runtime.coreai import library
from sfmobile.runtime.coreai.palette import pack
from sfmobile.runtime.coreai.registry import BRIDGES
from sfmobile.runtime.mil.evaluate import Evaluator
from tests.runtime.mil.programs import make_program, psnr

pytest.importorskip("coreai", reason="Apple's package is for Python 3.11 and later on x86-64 Linux and macOS 27")

from sfmobile.runtime.coreai.asset import Asset
from sfmobile.runtime.coreai.bridge import bridge, write_asset

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float16)


X, Y, ROW = normal(2, 4, 6, 5), normal(2, 4, 6, 5), normal(5)
POSITIVE = (np.abs(X) + np.float16(0.1)).astype(np.float16)
IDS = RANDOM.integers(0, 9, (1, 7)).astype(np.int32)
KERNEL, BIAS, MATRIX = normal(8, 4, 3, 3), normal(8), normal(3, 5)
GAMMA, BETA, MEAN = normal(4), normal(4), normal(4)
VARIANCE = np.abs(normal(4)) + np.float16(0.5)

Body = Callable[..., Any]
UNARY = ["cos", "erf", "exp", "relu", "sigmoid", "sin", "square", "silu", "tanh"]
BINARY = ["add", "sub", "mul", "real_div", "maximum", "minimum"]

# The program, its inputs, and its target where that is not ios16.
CASES: dict[str, tuple[Body, tuple[np.ndarray, ...]] | tuple[Body, tuple[np.ndarray, ...], str]] = {
    **{kind: (lambda x, kind=kind: getattr(mb, kind)(x=x), (X,)) for kind in UNARY},
    **{kind: (lambda x, y, kind=kind: getattr(mb, kind)(x=x, y=y), (X, Y)) for kind in BINARY},
    "broadcast": (lambda x: mb.add(x=mb.mul(x=ROW, y=x), y=np.float16(1.5)), (X,)),
    "sqrt": (lambda x: mb.sqrt(x=x), (POSITIVE,)),
    "pow": (lambda x: mb.pow(x=x, y=np.float16(1.5)), (POSITIVE,)),
    "rsqrt": (lambda x: mb.rsqrt(x=x, epsilon=np.float16(0.25)), (POSITIVE,)),
    "gelu": (lambda x: mb.gelu(x=x), (X,)),
    "softmax": (lambda x: mb.softmax(x=x, axis=1), (X,)),
    "softmax last": (lambda x: mb.softmax(x=x, axis=-1), (X,)),
    "cast": (lambda x: mb.cast(x=mb.cast(x=x, dtype="fp32"), dtype="fp16"), (X,)),
    "conv valid": (lambda x: mb.conv(x=x, weight=KERNEL, bias=BIAS), (X,)),
    "conv same": (lambda x: mb.conv(x=x, weight=KERNEL, bias=BIAS, pad_type="same", strides=[2, 2]), (X,)),
    "conv custom": (
        lambda x: mb.conv(x=x, weight=KERNEL, pad_type="custom", pad=[0, 1, 2, 0], dilations=[2, 1]),
        (X,),
    ),
    "conv groups": (lambda x: mb.conv(x=x, weight=KERNEL[:, :2], groups=2), (X,)),
    "linear": (lambda x: mb.linear(x=mb.reshape(x=x, shape=(8, 6, 5)), weight=MATRIX, bias=normal(3)), (X,)),
    "matmul": (lambda x, y: mb.matmul(x=x, y=y, transpose_y=True), (X, Y)),
    "matmul transposed": (lambda x, y: mb.matmul(x=x, y=y, transpose_x=True), (X, Y)),
    "einsum of rank 3": (lambda x, y: mb.einsum(values=(x, y), equation="chw,whu->chu"), (X[0], normal(5, 6, 7))),
    "einsum values": (lambda x, y: mb.einsum(values=(x, y), equation="nchw,nwhu->nchu"), (X, normal(2, 5, 6, 7))),
    "sdpa": (
        lambda x, y: mb.scaled_dot_product_attention(query=x, key=y, value=y, attn_mask=normal(6, 6)),
        (X, Y),
        "ios18",
    ),
    "sdpa unmasked": (lambda x, y: mb.scaled_dot_product_attention(query=x, key=x, value=y), (X, Y), "ios18"),
    "instance_norm": (lambda x: mb.instance_norm(x=x, epsilon=np.float16(1e-3)), (X,)),
    "instance_norm affine": (lambda x: mb.instance_norm(x=x, gamma=GAMMA, beta=BETA), (X,)),
    "layer_norm": (lambda x: mb.layer_norm(x=x, axes=[1], gamma=GAMMA, beta=BETA, epsilon=np.float16(1e-3)), (X,)),
    "layer_norm bare": (lambda x: mb.layer_norm(x=x, axes=[-2, -1]), (X,)),
    "batch_norm": (lambda x: mb.batch_norm(x=x, mean=MEAN, variance=VARIANCE, gamma=GAMMA, beta=BETA), (X,)),
    "batch_norm bare": (lambda x: mb.batch_norm(x=x, mean=MEAN, variance=VARIANCE), (X,)),
    "reshape": (lambda x: mb.reshape(x=x, shape=(2, -1, 3)), (X,)),
    "expand and squeeze": (lambda x: mb.squeeze(x=mb.expand_dims(x=x, axes=[0, -1]), axes=[0]), (X,)),
    "transpose": (lambda x: mb.transpose(x=x, perm=[0, -1, 1, 2]), (X,)),
    "concat": (lambda x, y: mb.concat(values=(x, y), axis=-3), (X, Y)),
    "split": (lambda x: mb.concat(values=mb.split(x=x, num_splits=2, axis=1)[::-1], axis=1), (X,)),
    "split uneven": (lambda x: mb.split(x=x, split_sizes=[1, 2, 2], axis=-1)[1], (X,)),
    "slice": (
        lambda x: mb.slice_by_index(x=x, begin=[0, 1, 0, -4], end=[0, 3, 0, 5], begin_mask=[True] + [False] * 3,
                                    end_mask=[True, False, True, False], stride=[1, 1, 2, 1]),
        (X,),
    ),
    "slice by size": (lambda x: mb.slice_by_size(x=x, begin=[0, 1, 2, 0], size=[2, 2, 3, 5]), (X,)),
    "gather": (lambda ids: mb.gather(x=normal(9, 6), indices=ids, axis=0), (IDS,)),
    "pad": (lambda x: mb.pad(x=x, pad=[0, 0, 0, 0, 1, 2, 3, 0], constant_val=np.float16(2)), (X,)),
    "upsample": (lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3), (X,)),
    **{
        kind: (lambda x, kind=kind: getattr(mb, kind)(x=x, axes=[1, -1], keep_dims=False), (X,))
        for kind in ("reduce_mean", "reduce_sum", "reduce_max", "reduce_min")
    },
}  # fmt: skip


def executed(
    program: Program, values: dict[str, np.ndarray], folder: Path, precision: str = "fp32"
) -> list[np.ndarray]:
    write_asset(bridge({"main": program}, precision), folder / "program.aimodel")  # type: ignore[arg-type]
    with Asset(folder / "program.aimodel") as asset:
        found = asset.call("main", values)
    return [found[name] for name in program.outputs]


def inputs_of(values: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    return {f"in{index}": value for index, value in enumerate(values)}


def case_program(case: str) -> tuple[Program, dict[str, np.ndarray]]:
    body, values, *target = CASES[case]
    inputs = inputs_of(values)
    return make_program(body, inputs, *target), inputs


@pytest.mark.parametrize("case", CASES)
def test_apples_runtime_gives_what_mil_gives(case: str, tmp_path: Path) -> None:
    program, inputs = case_program(case)
    expected = list(Evaluator(program, fuse=False)(inputs).values())
    found = executed(program, inputs, tmp_path)
    for value, wanted in zip(found, expected, strict=True):
        assert value.shape == wanted.shape
        assert psnr(value, wanted) > 110


def test_every_kind_of_the_bridge_is_tested() -> None:
    tested = {operation.kind for case in CASES for operation in case_program(case)[0].operations}
    assert set(BRIDGES) <= tested | {"fused.group_norm"}


def group_norm(x: Any) -> Any:
    """As an export has it."""
    normal_ = mb.instance_norm(x=mb.reshape(x=x, shape=(2, 2, 12, 5)), epsilon=np.float16(1e-3))
    back = mb.reshape(x=normal_, shape=(2, 4, 6, 5))
    zeros, ones = np.zeros(4, np.float16), np.ones(4, np.float16)
    return mb.batch_norm(x=back, mean=zeros, variance=ones, gamma=GAMMA, beta=BETA, epsilon=np.float16(0))


def test_a_group_norm_is_one_composite_where_asked_for(tmp_path: Path) -> None:
    program = make_program(group_norm, {"in0": X})
    whole = bridge({"main": program}, shipped=True)
    text = str(whole)
    assert '"group_norm"' in text and "num_groups = 2" in text
    assert '"group_norm"' not in str(bridge({"main": program}))
    write_asset(whole, tmp_path / "whole.aimodel")
    (expected,) = Evaluator(program, fuse=False)({"in0": X}).values()
    with Asset(tmp_path / "whole.aimodel") as asset:
        (found,) = asset.call("main", {"in0": X}).values()
    assert psnr(found, expected) > 110


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (5, 7), (130,)])
@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_ios16_palettes_are_handed_over_undecoded(bits: int, shape: tuple[int, ...], tmp_path: Path) -> None:
    lut = normal(2**bits)
    indices = RANDOM.integers(0, 2**bits, shape).astype(np.uint8)
    packed = pack_elements_into_bits(indices, bits)

    def body(x: Any) -> Any:
        weight = mb.constexpr_lut_to_dense(indices=packed, lut=lut, shape=np.array(shape, np.uint32))
        return mb.add(x=weight, y=x)

    inputs = {"in0": normal(*shape)}
    program = make_program(body, inputs)
    for constant in program.constants.values():
        if constant.compressed:
            object.__setattr__(constant, "load", lambda: pytest.fail("decoded by us"))
    (found,) = executed(program, inputs, tmp_path)
    np.testing.assert_allclose(found, lut[indices].astype(np.float32) + inputs["in0"], atol=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("groups", [(1, 1, 1, 1), (4, 1, 1, 1), (4, 2, 1, 1)])
def test_ios18_palettes_per_group_are_handed_over_undecoded(bits: int, groups: tuple[int, ...], tmp_path: Path) -> None:
    narrow = {1: types.np_uint1_dtype, 2: types.np_uint2_dtype, 3: types.np_uint3_dtype, 4: types.np_uint4_dtype}
    narrow[6] = types.np_uint6_dtype
    indices = RANDOM.integers(0, 2**bits, (8, 4, 3, 3)).astype(np.uint8)
    lut = normal(*groups, 2**bits, 1)

    def body(x: Any) -> Any:
        stored = indices.astype(narrow[bits]) if bits in narrow else indices
        return mb.add(x=mb.constexpr_lut_to_dense(indices=stored, lut=lut), y=x)

    inputs = {"in0": normal(8, 4, 3, 3)}
    (found,) = executed(make_program(body, inputs, "ios18"), inputs, tmp_path)
    rows, columns = np.arange(8) // (8 // groups[0]), np.arange(4) // (4 // groups[1])
    expected = lut[rows[:, None, None, None], columns[None, :, None, None], 0, 0, indices, 0]
    np.testing.assert_allclose(found, expected.astype(np.float32) + inputs["in0"], atol=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_indices_are_packed_lowest_bit_first(bits: int) -> None:
    indices = RANDOM.integers(0, 2**bits, 101).astype(np.uint8)
    stream = np.unpackbits(pack(indices, bits), bitorder="little")
    places = [sum(int(stream[bits * n + k]) << k for k in range(bits)) for n in range(101)]
    assert places == indices.tolist()


def test_fp16_rounds_every_result_as_mil_does_but_for_the_named_ones(tmp_path: Path) -> None:
    """Elementwise operations, softmax and norms compute wide and round once: equal to the bit or one rounding apart."""
    for case in ("add", "silu", "softmax", "layer_norm", "instance_norm", "real_div"):
        program, inputs = case_program(case)
        (expected,) = Evaluator(program, "fp16", fuse=False)(inputs).values()
        (found,) = executed(program, inputs, tmp_path, "fp16")
        assert psnr(found, expected) > 66, case


@pytest.mark.parametrize("case", [case for case in CASES if "norm" in case])
def test_norms_that_ship_stay_near_float16(case: str, tmp_path: Path) -> None:
    """Their scale and shift round, their statistics don't; computed wide again they are exact.

    But for a `batch_norm` of real statistics, which none of our exports has: its scale and shift, one number of four,
    are float16 in what ships.
    """
    program, inputs = case_program(case)
    write_asset(bridge({"main": program}, "fp16", shipped=True), tmp_path / "norm.aimodel")
    (expected,) = Evaluator(program, fuse=False)(inputs).values()
    for widened, least in ((False, 60), (True, 80 if case.startswith("batch_norm") else 110)):
        with Asset(tmp_path / "norm.aimodel", widened=widened) as asset:
            (found,) = asset.call("main", inputs).values()
        assert psnr(found, expected) > least


@pytest.mark.parametrize("size", [8, 4096])
def test_subnormal_weights_are_widened_as_they_are(size: int, tmp_path: Path) -> None:
    """Apple's compiler folds a cast of them to another value, small constants and large ones alike."""
    weight = np.resize(np.array([1e-5, -3e-5, 6e-8, 1, 6e-5], np.float16), (1, size))
    program = make_program(lambda x: mb.mul(x=x, y=weight), {"in0": np.ones((1, size), np.float16)})
    write_asset(bridge({"main": program}, "fp16"), tmp_path / "small.aimodel")
    with Asset(tmp_path / "small.aimodel", widened=True) as asset:
        (found,) = asset.call("main", {"in0": np.ones((1, size), np.float16)}).values()
    np.testing.assert_array_equal(found, weight.astype(np.float32))


def test_two_functions_of_one_asset_share_their_weights(tmp_path: Path) -> None:
    weight = normal(64, 64, 3, 3)

    def of_size(side: int) -> Program:
        return make_program(lambda x: mb.conv(x=x, weight=weight), {"in0": normal(1, 64, side, side)})

    programs = {"small": of_size(4), "large": of_size(6)}
    write_asset(bridge(programs), tmp_path / "both.aimodel")
    write_asset(bridge({"small": programs["small"]}), tmp_path / "one.aimodel")
    sizes = [(tmp_path / f"{name}.aimodel" / "main.mlirb").stat().st_size for name in ("both", "one")]
    assert sizes[0] < 1.1 * sizes[1]
    with Asset(tmp_path / "both.aimodel") as asset:
        assert asset.call("large", {"in0": normal(1, 64, 6, 6)})


def test_what_has_no_counterpart_is_named(tmp_path: Path) -> None:
    program = make_program(lambda x: mb.cumsum(x=x, axis=1), {"in0": X})
    with pytest.raises(UnavailableError, match=r"operation \d+ .*cumsum"):
        bridge({"main": program})


def test_another_version_of_apples_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "version", lambda name: "9.9")
    library.require.cache_clear()
    with pytest.raises(UnavailableError, match=r"for coreai-core .*, found 9\.9"):
        library.require()
    library.require.cache_clear()


def test_without_apples_package_one_sentence_says_where_it_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: None)
    library.require.cache_clear()
    with pytest.raises(UnavailableError, match=r"isn't installed .*x86-64 Linux and macOS"):
        library.require()
    library.require.cache_clear()


@pytest.mark.parametrize("name", ["tiny_bundle", "tiny_palettized_bundle"])
def test_every_operation_of_our_exports_is_bridged(name: str, request: pytest.FixtureRequest) -> None:
    bundle: Bundle = request.getfixturevalue(name)
    for component in bundle.manifest.components:
        program = load_program(bundle.package(component))
        assert {operation.kind for operation in program.operations} <= set(BRIDGES)
