"""Fused groups of operations: found where they are, left alone where they only look alike, equal to the unfused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from torch.nn import functional as F

from sfmobile.mlpackage.program import Program
from sfmobile.mlpackage.rewriting import rewrite
from sfmobile.runtime.mil.evaluate import Evaluator
from sfmobile.runtime.mil.fusion import FUSIONS
from tests.runtime.mil.programs import make_program, psnr

RANDOM = np.random.default_rng(0)


def half(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (scale * RANDOM.normal(size=shape)).astype(np.float16)


def fused_kinds(program: Program) -> Counter[str]:
    return Counter(
        operation.kind for operation in rewrite(program, FUSIONS).operations if operation.kind.startswith("fused.")
    )


def check(body: Callable[..., Any], inputs: dict[str, np.ndarray], expected: dict[str, int]) -> None:
    """The fusions found are those expected, and change nothing but float32 rounding."""
    program = make_program(body, inputs)
    assert fused_kinds(program) == Counter(expected)
    plain, fused = Evaluator(program, fuse=False)(inputs), Evaluator(program)(inputs)
    for name, value in plain.items():
        assert psnr(fused[name], value) > 110


# Group normalisation

X = half(2, 12, 4, 6, scale=3)
GAMMA, BETA, MEAN = half(12), half(12), half(12)
VARIANCE = np.abs(half(12)) + np.float16(0.5)


def affine(x: Any, **changed: Any) -> Any:
    given = {"mean": MEAN, "variance": VARIANCE, "gamma": GAMMA, "beta": BETA, "epsilon": np.float16(1e-3), **changed}
    return mb.batch_norm(x=x, **{name: value for name, value in given.items() if value is not None})


def by_instance_norm(x: Any, groups: int = 3, rank: int = 4) -> Any:
    shape = {3: (2, groups, -1), 4: (2, groups, 12 // groups * 4, 6), 5: (2, groups, 12 // groups, 4, 6)}[rank]
    grouped = mb.reshape(x=x, shape=shape)
    return mb.reshape(x=mb.instance_norm(x=grouped, epsilon=np.float16(1e-4)), shape=(2, 12, 4, 6))


def by_primitives(x: Any) -> Any:
    """The chain coremltools lowers torch's group_norm to."""
    grouped = mb.reshape(x=x, shape=(2, 3, 4, 4, 6))
    mean = mb.reduce_mean(x=grouped, axes=[2, 3, 4], keep_dims=True)
    centred = mb.sub(x=grouped, y=mean)
    variance = mb.reduce_mean(x=mb.square(x=centred), axes=[2, 3, 4], keep_dims=True)
    root = mb.sqrt(x=mb.add(x=variance, y=np.float16(1e-4)))
    return mb.reshape(x=mb.real_div(x=centred, y=root), shape=(2, 12, 4, 6))


@pytest.mark.parametrize("form", [by_instance_norm, lambda x: by_instance_norm(x, rank=3), by_primitives])
def test_group_norm_is_found_in_each_form(form: Callable[..., Any]) -> None:
    check(lambda x: affine(form(x)), {"x": X}, {"fused.group_norm": 1})


def test_fused_group_norm_is_torchs() -> None:
    program = make_program(
        lambda x: affine(by_instance_norm(x), mean=np.zeros(12, np.float16), variance=np.ones(12, np.float16)), {"x": X}
    )
    (found,) = Evaluator(program)({"x": X}).values()
    gamma = torch.from_numpy(GAMMA).float() / float(np.sqrt(1 + np.float64(np.float16(1e-3))))
    expected = F.group_norm(
        torch.from_numpy(X).float(), 3, gamma, torch.from_numpy(BETA).float(), float(np.float16(1e-4))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("missing", ["gamma", "beta"])
def test_an_affine_part_may_lack_scale_or_shift(missing: str) -> None:
    check(lambda x: affine(by_instance_norm(x), **{missing: None}), {"x": X}, {"fused.group_norm": 1})


def test_a_normalisation_read_elsewhere_too_stays() -> None:
    def body(x: Any) -> Any:
        normal = by_instance_norm(x)
        return mb.add(x=affine(normal), y=normal)

    check(body, {"x": X}, {})


def test_a_reshape_that_mixes_the_batch_stays() -> None:
    def body(x: Any) -> Any:
        grouped = mb.reshape(x=x, shape=(1, 6, 16, 6))
        return affine(mb.reshape(x=mb.instance_norm(x=grouped), shape=(2, 12, 4, 6)))

    check(body, {"x": X}, {})


def test_statistics_over_other_axes_stay() -> None:
    def body(x: Any) -> Any:
        grouped = mb.reshape(x=x, shape=(2, 3, 4, 4, 6))
        centred = mb.sub(x=grouped, y=mb.reduce_mean(x=grouped, axes=[3, 4], keep_dims=True))
        variance = mb.reduce_mean(x=mb.square(x=centred), axes=[3, 4], keep_dims=True)
        quotient = mb.real_div(x=centred, y=mb.sqrt(x=mb.add(x=variance, y=np.float16(1e-4))))
        return affine(mb.reshape(x=quotient, shape=(2, 12, 4, 6)))

    check(body, {"x": X}, {})


# Attention as two products

Q, K, V = half(2, 3, 8, 10), half(2, 3, 8, 7), half(2, 3, 5, 7)
MASK = half(10, 7)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scaled", ["nothing", "query", "scores"])
@pytest.mark.parametrize("columns", [False, True])
def test_attention_is_found_in_every_arrangement(columns: bool, scaled: str, masked: bool) -> None:
    """Operands by columns or by rows, the factor on either side of the product, with a mask or without."""
    q, k, v = (x if columns else np.ascontiguousarray(x.swapaxes(-1, -2)) for x in (Q, K, V))

    def body(query: Any, key: Any, value: Any) -> Any:
        if scaled == "query":
            query = mb.mul(x=query, y=np.float16(0.25))
        scores = mb.matmul(x=query, y=key, transpose_x=columns, transpose_y=not columns)
        if scaled == "scores":
            scores = mb.mul(x=np.float16(0.25), y=scores)
        if masked:
            scores = mb.add(x=scores, y=MASK)
        weights = mb.softmax(x=scores, axis=-1)
        if columns:
            return mb.matmul(x=value, y=weights, transpose_y=True)
        return mb.matmul(x=weights, y=value)

    check(body, {"query": q, "key": k, "value": v}, {"fused.attention": 1})


def test_a_mask_on_the_left_of_the_sum_is_found() -> None:
    def body(query: Any, key: Any, value: Any, mask: Any) -> Any:
        scores = mb.add(x=mask, y=mb.matmul(x=query, y=key, transpose_x=True))
        return mb.matmul(x=value, y=mb.softmax(x=scores, axis=3), transpose_y=True)

    check(body, {"query": Q, "key": K, "value": V, "mask": half(2, 1, 10, 7)}, {"fused.attention": 1})


def test_weights_read_elsewhere_too_stay() -> None:
    def body(query: Any, key: Any, value: Any) -> Any:
        weights = mb.softmax(x=mb.matmul(x=query, y=key, transpose_x=True), axis=-1)
        return mb.matmul(x=value, y=weights, transpose_y=True), mb.identity(x=weights)

    check(body, {"query": Q, "key": K, "value": V}, {})


@pytest.mark.parametrize("case", ["softmax over queries", "broadcast keys", "activation between"])
def test_what_only_looks_like_attention_stays(case: str) -> None:
    key = K[:, :1] if case == "broadcast keys" else K

    def body(query: Any, key: Any, value: Any) -> Any:
        scores = mb.matmul(x=query, y=key, transpose_x=True)
        if case == "activation between":
            scores = mb.relu(x=scores)
        weights = mb.softmax(x=scores, axis=-2 if case == "softmax over queries" else -1)
        return mb.matmul(x=value, y=weights, transpose_y=True)

    check(body, {"query": Q, "key": key, "value": V}, {})


# Split-einsum attention


def split_body(heads: int, chunks: list[int], mask: np.ndarray | None, shuffled: bool = False) -> Callable[..., Any]:
    """What the exporter writes for split attention over (B, C, 1, S)."""

    def parts(x: Any, axis: int) -> list[Any]:
        return [x] if heads == 1 else list(mb.split(x=x, num_splits=heads, axis=axis))

    def body(query: Any, key: Any, value: Any) -> Any:
        keys = mb.transpose(x=key, perm=[0, 3, 2, 1])
        rows = []
        for q, k, v in zip(parts(query, 1), parts(keys, 3), parts(value, 1), strict=True):
            queries = [q] if len(chunks) == 1 else mb.split(x=q, split_sizes=chunks, axis=3)
            columns = []
            start = 0
            for chunk, length in zip(queries, chunks, strict=True):
                scores = mb.einsum(values=(k, chunk), equation="nchw,nwhu->nchu")
                if mask is not None:
                    scores = mb.add(x=scores, y=mask[..., start : start + length])
                start += length
                weights = mb.softmax(x=scores, axis=1)
                columns.append(mb.einsum(values=(v, weights), equation="nchw,nwhu->nchu"))
            rows.append(columns[0] if len(columns) == 1 else mb.concat(values=columns, axis=3))
        if shuffled:
            rows = rows[::-1]
        return rows[0] if heads == 1 else mb.concat(values=rows, axis=1)

    return body


SPLIT = {"query": half(2, 12, 1, 10), "key": half(2, 12, 1, 7), "value": half(2, 6, 1, 7)}


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("chunks", [[10], [4, 4, 2]])
@pytest.mark.parametrize("masked", [False, True])
def test_split_attention_is_found_with_heads_chunks_and_mask(heads: int, chunks: list[int], masked: bool) -> None:
    mask = half(1, 7, 1, 10) if masked else None
    check(split_body(heads, chunks, mask), SPLIT, {"fused.split_attention": 1})


def test_heads_in_another_order_stay() -> None:
    check(split_body(3, [10], None, shuffled=True), SPLIT, {})


def test_heads_with_different_masks_stay_apart() -> None:
    def body(query: Any, key: Any, value: Any) -> Any:
        first = split_body(1, [10], half(1, 7, 1, 10))(query, key, value)
        second = split_body(1, [10], half(1, 7, 1, 10))(query, key, value)
        return mb.concat(values=(first, second), axis=1)

    check(body, SPLIT, {})


def test_an_einsum_that_isnt_attention_stays() -> None:
    x, y = half(2, 3, 4, 5), half(2, 5, 4, 6)
    check(lambda a, b: mb.einsum(values=(a, b), equation="nchw,nwhu->nchu"), {"a": x, "b": y}, {})


# Rewriting


ATTENTION = (
    lambda q, k, v: mb.matmul(
        x=v,
        y=mb.softmax(x=mb.add(x=mb.mul(x=mb.matmul(x=q, y=k, transpose_x=True), y=np.float16(0.3)), y=MASK), axis=-1),
        transpose_y=True,
    ),
    {"query": Q, "key": K, "value": V},
)
# More scores than are multiplied in one call, and than fit one block.
LONG = {"query": half(1, 2, 8, 600), "key": half(1, 2, 8, 2100), "value": half(1, 2, 8, 2100)}
ROUNDED: dict[str, tuple[Callable[..., Any], dict[str, np.ndarray], str]] = {
    "group norm": (lambda x: affine(by_instance_norm(x)), {"x": X}, "fused.rounded_group_norm"),
    "attention": (*ATTENTION, "fused.rounded_attention"),
    "long attention": (
        lambda q, k, v: mb.matmul(
            x=v, y=mb.softmax(x=mb.matmul(x=q, y=k, transpose_x=True), axis=-1), transpose_y=True
        ),
        LONG,
        "fused.rounded_attention",
    ),
    "split attention": (split_body(3, [4, 4, 2], half(1, 7, 1, 10)), SPLIT, "fused.rounded_split_attention"),
}


@pytest.mark.parametrize("case", ROUNDED)
def test_fp16_evaluation_rounds_within_a_fused_call_as_op_by_op(case: str) -> None:
    """Equal but where a float32 sum in another order falls on the other side of a rounding."""
    body, inputs, kind = ROUNDED[case]
    program = make_program(body, inputs)
    evaluator = Evaluator(program, "fp16")
    assert kind in {step.operation.kind for step in evaluator._plan.steps}
    (fused,), (single,) = evaluator(inputs).values(), Evaluator(program, "fp16", fuse=False)(inputs).values()
    np.testing.assert_array_equal(fused, fused.astype(np.float16))
    assert np.mean(fused != single) < 0.05
    np.testing.assert_allclose(fused, single, rtol=2e-3, atol=2e-3)
    # The rounding is real: the unrounded result is further away.
    (wide,) = Evaluator(program, "fp32")(inputs).values()
    assert psnr(fused, single) > psnr(wide.astype(np.float16).astype(np.float32), single) + 6


def test_overflow_within_a_fused_attention_is_infinite_as_op_by_op() -> None:
    """Scores beyond 65,504 become infinite and their softmax NaN, just as without fusion."""
    inputs = {"query": Q * 200, "key": K * 200, "value": V}
    program = make_program(
        lambda q, k, v: mb.matmul(
            x=v, y=mb.softmax(x=mb.matmul(x=q, y=k, transpose_x=True), axis=-1), transpose_y=True
        ),
        inputs,
    )
    (fused,) = Evaluator(program, "fp16")(inputs).values()
    (single,) = Evaluator(program, "fp16", fuse=False)(inputs).values()
    assert np.isnan(single).any()
    np.testing.assert_array_equal(np.isnan(fused), np.isnan(single))


def test_a_float32_program_is_never_rounded() -> None:
    """fp16 evaluation rounds what the program declares float16: nothing here, fused or not."""
    wide = X.astype(np.float32)

    def body(x: Any) -> Any:
        grouped = mb.reshape(x=x, shape=(2, 3, 16, 6))
        normal = mb.reshape(x=mb.instance_norm(x=grouped), shape=(2, 12, 4, 6))
        scaled = mb.batch_norm(x=normal, mean=np.zeros(12, np.float32), variance=np.ones(12, np.float32))
        weights = mb.softmax(x=mb.matmul(x=scaled, y=scaled, transpose_y=True), axis=-1)
        return mb.matmul(x=weights, y=scaled)

    program = make_program(body, {"x": wide})
    (evaluated,) = Evaluator(program, "fp16")({"x": wide}).values()
    (expected,) = Evaluator(program, "fp32", fuse=False)({"x": wide}).values()
    np.testing.assert_allclose(evaluated, expected, rtol=1e-5, atol=1e-5)


def test_a_rewrite_drops_what_nobody_reads_any_more_and_keeps_the_rest() -> None:
    program = make_program(lambda x: mb.relu(x=affine(by_instance_norm(x))), {"x": X})
    rewritten = rewrite(program, FUSIONS)
    assert [operation.kind for operation in rewritten.operations] == ["fused.group_norm", "relu"]
    assert len(program.operations) == 5
    assert rewrite(replace(program, operations=[]), FUSIONS).operations == []
