"""ML Programs translated to ONNX against the mil runtime's fp32 evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from coremltools.converters.mil import Builder as mb

from sfmobile.errors import UnavailableError
from sfmobile.mlpackage.program import Program
from sfmobile.runtime.mil.evaluate import Evaluator
from sfmobile.runtime.onnx.registry import TRANSLATORS
from sfmobile.runtime.onnx.runtime import translated_session
from sfmobile.runtime.onnx.translate import translate
from tests.runtime.mil.programs import make_program, psnr

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float16)


X, Y, ROW = normal(2, 4, 6, 5), normal(2, 4, 6, 5), normal(5)
POSITIVE = (np.abs(X) + np.float16(0.1)).astype(np.float16)
IDS = RANDOM.integers(0, 9, (1, 7)).astype(np.int32)
UP = normal(4, 4, 3, 4)
KERNEL, BIAS, MATRIX = normal(8, 4, 3, 3), normal(8), normal(3, 5)
GAMMA, BETA, MEAN = normal(4), normal(4), normal(4)
VARIANCE = np.abs(normal(4)) + np.float16(0.5)

Body = Callable[..., Any]

UNARY = ["identity", "abs", "ceil", "cos", "erf", "exp", "floor", "relu", "round", "sigmoid", "sign", "sin"]
UNARY += ["softplus", "square", "silu", "tanh"]
BINARY = ["add", "sub", "mul", "real_div", "maximum", "minimum"]
COMPARISONS = ["equal", "greater", "greater_equal", "less", "less_equal"]

CASES: dict[str, tuple[Body, tuple[np.ndarray, ...]]] = {
    **{kind: (lambda x, kind=kind: getattr(mb, kind)(x=x), (X,)) for kind in UNARY},
    **{kind: (lambda x, y, kind=kind: getattr(mb, kind)(x=x, y=y), (X, Y)) for kind in BINARY},
    **{
        kind: (lambda x, y, kind=kind: mb.cast(x=getattr(mb, kind)(x=x, y=y), dtype="fp16"), (X, Y))
        for kind in COMPARISONS
    },
    "broadcast": (lambda x: mb.add(x=mb.mul(x=ROW, y=x), y=np.float16(1.5)), (X,)),
    "sqrt": (lambda x: mb.sqrt(x=x), (POSITIVE,)),
    "pow": (lambda x: mb.pow(x=x, y=np.float16(1.5)), (POSITIVE,)),
    "rsqrt": (lambda x: mb.rsqrt(x=x, epsilon=np.float16(0.25)), (POSITIVE,)),
    "inverse": (lambda x: mb.inverse(x=x), (POSITIVE,)),
    "log": (lambda x: mb.log(x=x, epsilon=np.float16(0.25)), (POSITIVE,)),
    "clip": (lambda x: mb.clip(x=x, alpha=np.float16(-0.5), beta=np.float16(1)), (X,)),
    "leaky_relu": (lambda x: mb.leaky_relu(x=x, alpha=np.float16(0.25)), (X,)),
    "gelu": (lambda x: mb.gelu(x=x), (X,)),
    "gelu tanh": (lambda x: mb.gelu(x=x, mode="TANH_APPROXIMATION"), (X,)),
    "gelu sigmoid": (lambda x: mb.gelu(x=x, mode="SIGMOID_APPROXIMATION"), (X,)),
    "softmax": (lambda x: mb.softmax(x=x, axis=1), (X,)),
    "logic": (
        lambda x, y: mb.select(
            cond=mb.logical_or(
                x=mb.logical_and(x=mb.greater(x=x, y=y), y=mb.less(x=x, y=np.float16(1))),
                y=mb.logical_not(x=mb.less(x=y, y=np.float16(0))),
            ),
            a=x,
            b=np.float16(-3e4),
        ),
        (X, Y),
    ),
    "cast": (lambda x: mb.cast(x=mb.cast(x=x, dtype="int32"), dtype="fp16"), (3 * X,)),
    "max_pool": (lambda x: mb.max_pool(x=x, kernel_sizes=[3, 2], strides=[2, 1], pad_type="same"), (X,)),
    "avg_pool": (
        lambda x: mb.avg_pool(
            x=x, kernel_sizes=[3, 3], pad_type="custom", pad=[1, 0, 1, 1], exclude_padding_from_average=True
        ),
        (X,),
    ),
    "avg_pool with its padding": (lambda x: mb.avg_pool(x=x, kernel_sizes=[3, 3], pad_type="same"), (X,)),
    "conv_transpose": (
        lambda x: mb.conv_transpose(
            x=x, weight=UP, bias=BIAS, strides=[2, 3], pad_type="custom", pad=[1, 0, 1, 1], groups=2
        ),
        (X,),
    ),
    "conv_transpose same": (lambda x: mb.conv_transpose(x=x, weight=UP, strides=[2, 2], pad_type="same"), (X,)),
    "upsample_bilinear": (
        lambda x: mb.upsample_bilinear(x=x, scale_factor_height=2, scale_factor_width=3, align_corners=False),
        (X,),
    ),
    "resize_bilinear": (
        lambda x: mb.resize_bilinear(
            x=x, target_size_height=9, target_size_width=4, sampling_mode="STRICT_ALIGN_CORNERS"
        ),
        (X,),
    ),
    "gather_nd": (lambda x: mb.gather_nd(x=x, indices=np.array([[[0, 3]], [[1, -1]]], np.int32)), (X,)),
    "gather_along_axis": (
        lambda x: mb.gather_along_axis(x=x, indices=np.argsort(Y, axis=2).astype(np.int32), axis=2),
        (X,),
    ),
    "pixel_shuffle": (lambda x: mb.pixel_shuffle(x=x, upscale_factor=2), (X,)),
    "conv same": (lambda x: mb.conv(x=x, weight=KERNEL, bias=BIAS, pad_type="same", strides=[2, 2]), (X,)),
    "conv same_lower": (lambda x: mb.conv(x=x, weight=KERNEL, pad_type="same_lower", strides=[2, 1]), (X,)),
    "conv custom": (
        lambda x: mb.conv(x=x, weight=KERNEL, pad_type="custom", pad=[0, 1, 2, 0], dilations=[2, 1]),
        (X,),
    ),
    "conv groups": (lambda x: mb.conv(x=x, weight=KERNEL[:, :2], groups=2), (X,)),
    "linear": (lambda x: mb.linear(x=mb.reshape(x=x, shape=(8, 6, 5)), weight=MATRIX), (X,)),
    "linear bias": (lambda x: mb.linear(x=mb.reshape(x=x, shape=(48, 5)), weight=MATRIX, bias=BIAS[:3]), (X,)),
    "matmul": (lambda x, y: mb.matmul(x=x, y=y, transpose_y=True), (X, Y)),
    "matmul turned": (lambda x, y: mb.matmul(x=x, y=y, transpose_x=True), (X, Y)),
    "einsum": (
        lambda x, y: mb.einsum(values=(x, mb.transpose(x=y, perm=[0, 3, 2, 1])), equation="nchw,nwhu->nchu"),
        (X, Y),
    ),
    "batch_norm": (
        lambda x: mb.batch_norm(x=x, mean=MEAN, variance=VARIANCE, gamma=GAMMA, beta=BETA, epsilon=np.float16(1e-3)),
        (X,),
    ),
    "batch_norm plain": (lambda x: mb.batch_norm(x=x, mean=MEAN, variance=VARIANCE), (X,)),
    "instance_norm": (lambda x: mb.instance_norm(x=x, gamma=GAMMA, beta=BETA, epsilon=np.float16(1e-3)), (X,)),
    "instance_norm plain": (lambda x: mb.instance_norm(x=x), (X,)),
    "layer_norm last": (lambda x: mb.layer_norm(x=x, axes=[-1], gamma=ROW, beta=ROW), (X,)),
    "layer_norm channels": (lambda x: mb.layer_norm(x=x, axes=[1], gamma=GAMMA, beta=BETA), (X,)),
    "layer_norm plain": (lambda x: mb.layer_norm(x=x, axes=[2, 3]), (X,)),
    "group_norm": (
        lambda x: mb.batch_norm(
            x=mb.reshape(x=mb.instance_norm(x=mb.reshape(x=x, shape=(2, 2, 12, 5))), shape=(2, 4, 6, 5)),
            mean=MEAN,
            variance=VARIANCE,
            gamma=GAMMA,
            beta=BETA,
        ),
        (X,),
    ),
    "reduce_mean": (lambda x: mb.reduce_mean(x=x, axes=[1, -1], keep_dims=True), (X,)),
    "reduce_sum": (lambda x: mb.reduce_sum(x=x, axes=[2]), (X,)),
    "reduce_max": (lambda x: mb.reduce_max(x=x, axes=[0, 3]), (X,)),
    "reduce_min": (lambda x: mb.reduce_min(x=x), (X,)),
    "upsample": (
        lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3),
        (X,),
    ),
    "resize": (lambda x: mb.resize_nearest_neighbor(x=x, target_size_height=9, target_size_width=4), (X,)),
    "reshape": (lambda x: mb.reshape(x=x, shape=(2, -1, 10)), (X,)),
    "flatten2d": (lambda x: mb.flatten2d(x=x, axis=2), (X,)),
    "expand and squeeze": (lambda x: mb.squeeze(x=mb.expand_dims(x=x, axes=[0, -1]), axes=[0]), (X,)),
    "transpose": (lambda x: mb.transpose(x=x, perm=[0, -1, 2, 1]), (X,)),
    "concat": (lambda x, y: mb.concat(values=(x, y, x), axis=-2), (X, Y)),
    "stack": (lambda x, y: mb.stack(values=(x, y), axis=1), (X, Y)),
    "split": (lambda x: mb.split(x=x, split_sizes=[1, 3], axis=1), (X,)),
    "slice": (
        lambda x: mb.slice_by_index(
            x=x,
            begin=[0, -3, 4, 1],
            end=[0, 4, 0, 0],
            stride=[1, 1, -2, 1],
            begin_mask=[True, False, False, False],
            end_mask=[True, False, True, True],
            squeeze_mask=[False, True, False, False],
        ),
        (X,),
    ),
    "gather": (lambda ids: mb.gather(x=normal(9, 6), indices=ids, axis=0), (IDS,)),
    "tile": (lambda x: mb.tile(x=x, reps=[1, 2, 1, 3]), (X,)),
    "pad": (lambda x: mb.pad(x=x, pad=[1, 2, 0, 3], constant_val=np.float16(1.5)), (X,)),
    "pad reflect": (lambda x: mb.pad(x=x, pad=[1, 2, 0, 3], mode="reflect"), (X,)),
    "pad replicate": (lambda x: mb.pad(x=x, pad=[1, 2], mode="replicate"), (X,)),
}


def compare(program: Program, inputs: dict[str, np.ndarray], gate: float = 110) -> None:
    """ONNX Runtime on the translation agrees with the evaluator."""
    translation = translate(program)
    fed = {name: value.astype(np.float32) if value.dtype == np.float16 else value for name, value in inputs.items()}
    expected = Evaluator(program, fuse=False)(fed)
    found = translated_session(translation).run(list(expected), fed)
    for value, wanted in zip(found, expected.values(), strict=True):
        assert value.shape == wanted.shape
        assert value.dtype == wanted.dtype
        assert psnr(value, wanted) > gate


@pytest.mark.parametrize("case", CASES)
def test_a_translated_operation_computes_what_ours_does(case: str) -> None:
    body, values = CASES[case]
    inputs = {f"in{index}": value for index, value in enumerate(values)}
    compare(make_program(body, inputs), inputs)


HEADS = {"query": normal(2, 3, 8, 10), "key": normal(2, 3, 8, 7), "value": normal(2, 3, 5, 7)}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("columns", [False, True])
def test_attention_as_two_products_becomes_one_call(columns: bool, masked: bool) -> None:
    inputs = {name: value if columns else np.ascontiguousarray(value.swapaxes(-1, -2)) for name, value in HEADS.items()}
    mask = normal(10, 7)

    def body(query: Any, key: Any, value: Any) -> Any:
        scores = mb.matmul(x=query, y=key, transpose_x=columns, transpose_y=not columns)
        scores = mb.mul(x=scores, y=np.float16(0.25))
        weights = mb.softmax(x=mb.add(x=scores, y=mask) if masked else scores, axis=-1)
        return mb.matmul(x=value, y=weights, transpose_y=True) if columns else mb.matmul(x=weights, y=value)

    program = make_program(body, inputs)
    assert "MultiHeadAttention" in {node.op_type for node in translate(program).model.graph.node}
    compare(program, inputs)


def test_attention_of_one_head_without_a_heads_axis() -> None:
    inputs = {name: value[:, 0] for name, value in HEADS.items()}

    def body(query: Any, key: Any, value: Any) -> Any:
        weights = mb.softmax(x=mb.matmul(x=query, y=key, transpose_x=True), axis=-1)
        return mb.matmul(x=value, y=weights, transpose_y=True)

    compare(make_program(body, inputs), inputs)


@pytest.mark.parametrize("masked", [False, True])
def test_the_attention_operation_of_ios18(masked: bool) -> None:
    inputs = {name: np.ascontiguousarray(value.swapaxes(-1, -2)) for name, value in HEADS.items()}
    mask = {"attn_mask": normal(1, 1, 10, 7)} if masked else {}
    body = lambda query, key, value: mb.scaled_dot_product_attention(query=query, key=key, value=value, **mask)  # noqa: E731
    compare(make_program(body, inputs, "ios18"), inputs)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("chunks", [[10], [6, 4]])
def test_split_attention_becomes_one_call(chunks: list[int], masked: bool) -> None:
    from tests.runtime.mil.test_fusion import SPLIT, split_body

    program = make_program(split_body(3, chunks, normal(1, 7, 1, 10) if masked else None), SPLIT)
    assert "Einsum" not in {node.op_type for node in translate(program).model.graph.node}
    compare(program, SPLIT)


def test_large_weights_stay_out_of_the_model() -> None:
    weight = normal(64, 4, 3, 3)
    program = make_program(lambda x: mb.conv(x=x, weight=weight), {"x": X})
    translation = translate(program)
    assert len(translation.model.SerializeToString()) < 2000
    assert [value.shape for value in translation.weights.values()] == [weight.shape]
    onnx.checker.check_model(translate(make_program(lambda x: mb.silu(x=x), {"x": X})).model)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (lambda x: mb.cumsum(x=x, name="sums"), r"'sums' \(cumsum\) is an operation, which has no translation to ONNX"),
        (
            lambda x: mb.concat(values=(x, x), axis=0, interleave=True, name="both"),
            r"'both' \(concat\) has interleave true",
        ),
        (
            lambda x: mb.gather(x=x, indices=np.int32([[0], [1]]), axis=1, batch_dims=1, name="rows"),
            r"'rows' \(gather\) has batch_dims 1",
        ),
    ],
)
def test_what_has_no_translation_names_package_and_position(body: Body, sentence: str) -> None:
    with pytest.raises(UnavailableError, match=rf"program\.mlpackage: operation \d+ {sentence}.*; use the mil runtime"):
        translate(make_program(body, {"x": X}))


def test_every_translation_is_tested() -> None:
    named = {"fused.attention", "fused.split_attention", "scaled_dot_product_attention", "fused.group_norm"}
    cases = " ".join(CASES)
    elsewhere = {"select", "logical_and", "logical_or", "logical_not", "expand_dims", "squeeze"}
    renamed = {"upsample_nearest_neighbor", "resize_nearest_neighbor", "slice_by_index", "reshape_like"}
    assert {kind for kind in TRANSLATORS if kind not in cases} <= named | elsewhere | renamed


@pytest.mark.parametrize("batch", [1, 3])
def test_attention_without_heads_takes_a_mask_for_each_of_a_batch(batch: int) -> None:
    shapes = ((batch, 10, 8), (batch, 7, 8), (batch, 7, 8), (batch, 10, 7))
    body = lambda query, key, value, mask: mb.scaled_dot_product_attention(  # noqa: E731
        query=query, key=key, value=value, attn_mask=mask
    )
    inputs = {name: normal(*shape) for name, shape in zip(("query", "key", "value", "mask"), shapes, strict=True)}
    program = make_program(body, inputs, "ios18")
    fed = {name: value.astype(np.float32) for name, value in inputs.items()}
    (found,) = translated_session(translate(program)).run(None, fed)
    (expected,) = Evaluator(program)(fed).values()
    assert psnr(found, expected) > 100
