"""Unary elementwise ops against numpy and scipy-free formulas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb

from sfmobile.runtime.mil.ops.elementwise_unary import cast
from tests.runtime.mil.programs import assert_matches, evaluate

RANDOM = np.random.default_rng(0)
ANY = np.concatenate([RANDOM.normal(scale=2, size=40), [0.0, 0.5, 1.5, 2.5, -0.5, -1.5]]).astype(np.float32)
UNIT = RANDOM.uniform(-0.95, 0.95, 40).astype(np.float32)
POSITIVE = RANDOM.uniform(0.1, 4, 40).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "oracle", "values"),
    [
        ("identity", np.positive, ANY),
        ("abs", np.abs, ANY),
        ("sign", np.sign, ANY),
        ("ceil", np.ceil, ANY),
        ("floor", np.floor, ANY),
        ("round", np.round, ANY),
        ("square", np.square, ANY),
        ("sqrt", np.sqrt, POSITIVE),
        ("exp", np.exp, ANY),
        ("exp2", np.exp2, ANY),
        ("erf", lambda v: torch.erf(torch.from_numpy(v)).numpy(), ANY),
        ("sin", np.sin, ANY),
        ("cos", np.cos, ANY),
        ("tan", np.tan, UNIT),
        ("asin", np.arcsin, UNIT),
        ("acos", np.arccos, UNIT),
        ("atan", np.arctan, ANY),
        ("sinh", np.sinh, ANY),
        ("cosh", np.cosh, ANY),
        ("tanh", np.tanh, ANY),
        ("atanh", np.arctanh, UNIT),
    ],
)
def test_unary_op_matches_numpy(kind: str, oracle: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> None:
    assert_matches(lambda a: getattr(mb, kind)(x=a), oracle(values), values)


@pytest.mark.parametrize(
    ("kind", "oracle"),
    [
        ("rsqrt", lambda v, e: 1 / np.sqrt(v + e)),
        ("inverse", lambda v, e: 1 / (v + e)),
        ("log", lambda v, e: np.log(v + e)),
    ],
)
@pytest.mark.parametrize("epsilon", [None, 0.25])
def test_epsilon_is_added_before(kind: str, oracle: Callable[..., np.ndarray], epsilon: float | None) -> None:
    default = {"rsqrt": 1e-12, "inverse": 1e-4, "log": 1e-45}[kind]
    attributes = {} if epsilon is None else {"epsilon": np.float32(epsilon)}
    expected = oracle(POSITIVE, np.float32(default if epsilon is None else epsilon))
    assert_matches(lambda a: getattr(mb, kind)(x=a, **attributes), expected, POSITIVE)


def test_clip_and_threshold() -> None:
    assert_matches(lambda a: mb.clip(x=a, alpha=-0.5, beta=1.25), ANY.clip(-0.5, 1.25), ANY)
    assert_matches(lambda a: mb.threshold(x=a, alpha=0.3), np.maximum(ANY, np.float32(0.3)), ANY)


def test_logical_not() -> None:
    flags = RANDOM.random(20) > 0.5
    assert_matches(lambda a: mb.logical_not(x=a), ~flags, flags)


def test_integers_keep_their_type() -> None:
    values = RANDOM.integers(-9, 9, 20).astype(np.int32)
    assert_matches(lambda a: mb.abs(x=a), np.abs(values), values)
    assert_matches(lambda a: mb.square(x=a), values**2, values)
    assert_matches(lambda a: mb.sign(x=a), np.sign(values), values)


def test_cast_truncates_floats_and_compares_bools_with_zero() -> None:
    assert_matches(lambda a: mb.cast(x=a, dtype="int32"), ANY.astype(np.int32), ANY)
    assert_matches(lambda a: mb.cast(x=a, dtype="bool"), ANY.astype(bool), ANY)
    whole = RANDOM.integers(-9, 9, 20).astype(np.int32)
    assert_matches(lambda a: mb.cast(x=a, dtype="fp32"), whole.astype(np.float32), whole)
    flags = RANDOM.random(20) > 0.5
    assert_matches(lambda a: mb.cast(x=a, dtype="int32"), flags.astype(np.int32), flags)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
def test_cast_to_small_integers_ios17(dtype: str) -> None:
    values = RANDOM.integers(0, 127, 20).astype(np.int32)
    assert_matches(lambda a: mb.cast(x=mb.cast(x=a, dtype=dtype), dtype="int32"), values, values, target="ios17")


def test_uint16_wraps_as_in_its_own_type() -> None:
    values = torch.tensor([-1, 65535, 65536, 3], dtype=torch.int32)
    assert cast(values, dtype="uint16").tolist() == [65535, 65535, 0, 3]


def test_cast_to_fp16_rounds_and_overflows_to_infinity_in_fp16_evaluation_alone() -> None:
    values = np.array([1.0001, 70000.0, -70000.0, 65519.0], dtype=np.float32)
    body = lambda a: mb.cast(x=mb.cast(x=a, dtype="fp16"), dtype="fp32")  # noqa: E731
    (half,) = evaluate(body, values, precision="fp16")
    np.testing.assert_array_equal(half, [1.0, np.inf, -np.inf, 65504.0])
    (wide,) = evaluate(body, values, precision="fp32")
    np.testing.assert_array_equal(wide, values)


def test_square_overflows_to_infinity_in_fp16_evaluation() -> None:
    values = np.array([3.0, 256.0], dtype=np.float16)
    (found,) = evaluate(lambda a: mb.square(x=a), values, precision="fp16")
    np.testing.assert_array_equal(found, [9.0, np.inf])
