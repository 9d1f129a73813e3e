"""Where the `mil` runtime and Apple's Core AI runtime differ, operation by operation, and who is right.

    python benchmarks/coreai_agreement.py [--only KIND ...] [--markdown]

Every kind of operation of our programs, alone, on seeded inputs, in fp32 and in fp16, on both runtimes and in float64
(torch). In fp16 the right result is the float64 one rounded once.

Exit code 1 if the two are under 110 dB in fp32 anywhere.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sfmobile.mlpackage.program import Constant, Operand, Operation, Program
from sfmobile.mlpackage.types import TensorType
from sfmobile.runtime.choices import Precision
from sfmobile.runtime.coreai.asset import bridged
from sfmobile.runtime.mil.evaluate import Evaluator
from sfmobile.signal import psnr
from sfmobile.tables import Table, as_text
from sfmobile.verify.coreai_reference import OPERATORS_GATE_DB

Value = np.ndarray | str | float | int | bool


@dataclass(frozen=True)
class Case:
    """One operation.

    operands: what it computes with, fp16; constant: those among them that are weights. attributes: the rest.
    exact: the float64 result of the operands. explains: reproduces Apple's fp16 result, where that isn't the rounded
    float64 one; why: the same in words.
    """

    label: str
    kind: str
    operands: Mapping[str, np.ndarray | tuple[np.ndarray, ...]]
    exact: Callable[..., Tensor | tuple[Tensor, ...]]
    attributes: Mapping[str, Value] = field(default_factory=dict)
    constant: tuple[str, ...] = ()
    explains: Callable[..., np.ndarray | Tensor] | None = None
    why: str = ""


def halves(*shape: int, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    """Seeded normal values, float16."""
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float16)


def sequential_product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(..., M, K) times (..., K, N), each product and each partial sum rounded to float16 in turn."""
    total = np.zeros((*np.broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1]), np.float16)
    for k in range(x.shape[-1]):
        total = total + x[..., :, k : k + 1] * y[..., k : k + 1, :]
    return total


def stepwise_gelu(x: np.ndarray) -> np.ndarray:
    """x (1 + erf(x / sqrt 2)) / 2 with x / sqrt 2 and 1 + erf each rounded to float16."""
    scaled = x * np.float16(math.sqrt(0.5))
    erf = torch.erf(torch.from_numpy(scaled.astype(np.float64))).numpy()
    return (0.5 * x.astype(np.float64) * (1 + erf).astype(np.float16)).astype(np.float16)


def attention_in_halves(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Scaled queries, scores, weights and both sums in float16."""
    scaled = query * np.float16(query.shape[-1] ** -0.5)
    scores = torch.from_numpy(sequential_product(scaled, key.swapaxes(-1, -2)).astype(np.float64))
    return sequential_product(scores.softmax(-1).numpy().astype(np.float16), value)


SEQUENTIAL = "Apple sums a product one by one in float16, every partial sum rounded."
STEPWISE = "Apple rounds x / √2 and 1 + erf to float16 before it multiplies, which cancels digits for x < 0."
BIASED = (
    "Core AI's convolution has no bias: its sum, in float32, is rounded before the bias is added, and once more then."
)
# How much of Apple's fp16 result an explanation must give to the bit; float32 sums may run in another order within it.
EXPLAINED = 0.98


def norm(x: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    """Without scale and shift."""
    centred = x - x.mean(axes, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(axes, keepdim=True) + epsilon)


def along(value: Tensor, rank: int) -> Tensor:
    """A value per channel, broadcast over the others."""
    return value.reshape(1, -1, *[1] * (rank - 2))


EPSILON = np.float16(1e-5)
X, Y = halves(2, 64, 16, 16), halves(2, 64, 16, 16, seed=1)
Q, K = halves(1, 4, 64, 40), halves(1, 4, 77, 40, seed=1)
GAMMA, BETA = halves(64, seed=2), halves(64, seed=3)
ROWS = halves(2, 192, 1, 77)
WIDE = halves(192, seed=2)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Spelled out."""
    return torch.softmax(query @ key.mT * query.shape[-1] ** -0.5, -1) @ value


def convolution(size: int, channels: int, **options: int) -> Case:
    """Square kernels, as many channels out as in."""
    x, weight = halves(1, channels, 12, 12), halves(channels, channels, size, size, seed=1, scale=0.05)
    stride = options.get("stride", 1)
    label = f"conv {size}x{size}, {channels} channels" + (f", stride {stride}" if stride > 1 else "")
    pad = size // 2
    return Case(
        label,
        "conv",
        {"x": x, "weight": weight, "bias": halves(channels, seed=2)},
        lambda x, weight, bias: F.conv2d(x, weight, bias, stride=stride, padding=pad),
        {
            "strides": np.full(2, stride, np.int32),
            "pad_type": "custom",
            "pad": np.full(4, pad, np.int32),
            "dilations": np.ones(2, np.int32),
            "groups": np.int32(1),
        },
        constant=("weight", "bias"),
        explains=lambda x, weight, bias: (
            F.conv2d(*(torch.from_numpy(one).double() for one in (x, weight)), stride=stride, padding=pad)
            .half()
            .double()
            + along(torch.from_numpy(bias).double(), 4)
        ).half(),
        why=BIASED,
    )


def unary(kind: str, function: Callable[[Tensor], Tensor], scale: float) -> Case:
    """An activation."""
    label, operands = f"{kind}, values to ±{4 * scale:g}", {"x": X * np.float16(scale)}
    if kind == "gelu":
        return Case(label, kind, operands, function, {"mode": "EXACT"}, explains=stepwise_gelu, why=STEPWISE)
    return Case(label, kind, operands, function)


def binary(kind: str, function: Callable[[Tensor, Tensor], Tensor]) -> Case:
    """Arithmetic."""
    return Case(kind, kind, {"x": X, "y": Y}, function)


def normalisation(kind: str, label: str, scale: float) -> Case:
    """Of values about `scale`, which squared leave float16 above 255."""
    if kind == "layer_norm":
        return Case(
            label,
            kind,
            {"x": ROWS * np.float16(scale), "gamma": WIDE, "beta": halves(192, seed=3)},
            lambda x, gamma, beta: norm(x, (1,), float(EPSILON)) * along(gamma, 4) + along(beta, 4),
            {"axes": np.array([1], np.int32), "epsilon": EPSILON},
            constant=("gamma", "beta"),
        )
    return Case(
        label,
        kind,
        {"x": X * np.float16(scale)},
        lambda x: norm(x, (2, 3), float(EPSILON)),
        {"epsilon": EPSILON},
    )


def cases() -> Iterator[Case]:
    """Every kind of operation of our programs, at sizes of theirs."""
    yield binary("add", torch.add)
    yield binary("mul", torch.mul)
    yield unary("sigmoid", torch.sigmoid, 1)
    yield unary("sigmoid", torch.sigmoid, 20)
    yield unary("silu", F.silu, 1)
    yield unary("silu", F.silu, 20)
    yield unary("relu", F.relu, 1)
    yield unary("tanh", torch.tanh, 1)
    yield binary("real_div", torch.div)
    yield unary("gelu", F.gelu, 1)
    yield unary("gelu", F.gelu, 20)
    for axis, x in ((1, halves(1, 77, 4, 64, scale=3)), (-1, halves(4, 64, 77, scale=3))):
        attributes = {"axis": np.int32(axis)}
        yield Case(f"softmax, axis {axis}", "softmax", {"x": x}, lambda x, axis=axis: x.softmax(axis), attributes)
    yield convolution(3, 64)
    yield convolution(1, 320)
    yield convolution(3, 64, stride=2)
    for inner in (64, 512):
        yield Case(
            f"matmul, {inner} products a sum",
            "matmul",
            {"x": halves(2, 32, inner), "y": halves(2, inner, 24, seed=1)},
            torch.matmul,
            {"transpose_x": np.bool_(False), "transpose_y": np.bool_(False)},
            explains=sequential_product,
            why=SEQUENTIAL,
        )
    yield Case(
        "einsum nchw,nwhu->nchu",
        "einsum",
        {"values": (halves(1, 77, 1, 40), halves(1, 40, 1, 64, seed=1))},
        lambda x, y: torch.einsum("nchw,nwhu->nchu", x, y),
        {"equation": "nchw,nwhu->nchu"},
        explains=lambda x, y: sequential_product(x[:, :, 0], y[:, :, 0])[:, :, None],
        why=SEQUENTIAL,
    )
    yield Case(
        "scaled_dot_product_attention",
        "scaled_dot_product_attention",
        {"query": Q, "key": K, "value": halves(1, 4, 77, 40, seed=2)},
        attention,
        explains=attention_in_halves,
        why=f"{SEQUENTIAL} Here twice, with float16 scores in between.",
    )
    yield normalisation("layer_norm", "layer_norm", 1)
    yield normalisation("layer_norm", "layer_norm, values to ±1,600", 400)
    yield normalisation("instance_norm", "instance_norm", 1)
    yield normalisation("instance_norm", "instance_norm, values to ±1,600", 400)
    yield Case(
        "batch_norm (scale and shift)",
        "batch_norm",
        {"x": X, "mean": np.zeros(64, np.float16), "variance": np.ones(64, np.float16), "gamma": GAMMA, "beta": BETA},
        lambda x, mean, variance, gamma, beta: x * along(gamma, 4) + along(beta, 4),
        {"epsilon": np.float16(0)},
        constant=("mean", "variance", "gamma", "beta"),
    )
    yield Case(
        "upsample_nearest_neighbor",
        "upsample_nearest_neighbor",
        {"x": X},
        lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"),
        {"scale_factor_height": np.int32(2), "scale_factor_width": np.int32(2)},
    )
    yield Case("concat", "concat", {"values": (X, Y)}, lambda x, y: torch.cat((x, y), 1),
               {"axis": np.int32(1), "interleave": np.bool_(False)})  # fmt: skip
    yield Case("split", "split", {"x": X}, lambda x: x.split(32, 1), {"num_splits": np.int32(2), "axis": np.int32(1)})
    yield Case("transpose", "transpose", {"x": X}, lambda x: x.permute(0, 3, 2, 1),
               {"perm": np.array([0, 3, 2, 1], np.int32)})  # fmt: skip
    yield Case("reshape", "reshape", {"x": X}, lambda x: x.reshape(2, 8, 128, 16),
               {"shape": np.array([2, 8, 128, 16], np.int32)})  # fmt: skip
    yield Case("expand_dims", "expand_dims", {"x": ROWS[:, :, 0]}, lambda x: x[:, :, None],
               {"axes": np.array([2], np.int32)})  # fmt: skip
    yield Case("gather", "gather", {"x": halves(600, 32), "indices": np.arange(77, dtype=np.int32)[None] * 7 % 600},
               lambda x, indices: x[indices.long()],
               {"axis": np.int32(0), "batch_dims": np.int32(0), "validate_indices": np.bool_(False)},
               constant=("x",))  # fmt: skip


# --- one operation as a program ---


def constant(value: Value) -> Constant:
    """A literal in the type it has."""
    if isinstance(value, str):
        return Constant(TensorType("string", ()), lambda: value)
    array = np.asarray(value)
    name = {"float16": "fp16", "int32": "int32", "bool": "bool"}[array.dtype.name]
    return Constant(TensorType(name, array.shape), lambda: array)


def arrays_of(case: Case) -> dict[str, np.ndarray]:
    """Operands by the name that they have in the program."""
    found: dict[str, np.ndarray] = {}
    for argument, items in case.operands.items():
        several = isinstance(items, tuple)
        for number, item in enumerate(items if several else (items,)):
            found[f"{argument}{number}" if several else argument] = np.asarray(item)
    return found


def program_of(case: Case) -> Program:
    """The operation alone; what isn't a weight is an input."""
    arrays = arrays_of(case)
    inputs: dict[str, TensorType] = {}
    arguments: dict[str, tuple[Operand, ...]] = {key: (constant(value),) for key, value in case.attributes.items()}
    for argument, items in case.operands.items():
        names = tuple(
            name for name in arrays if name == argument or (isinstance(items, tuple) and name[:-1] == argument)
        )
        if argument in case.constant:
            arguments[argument] = tuple(constant(arrays[name]) for name in names)
        else:
            arguments[argument] = names
            inputs.update({name: constant(arrays[name]).type for name in names})
    results = exact_results(case)
    outputs = tuple((f"result{n}", TensorType("fp16", result.shape)) for n, result in enumerate(results))
    operation = Operation(0, case.kind, case.label, arguments, outputs)
    names = tuple(name for name, _ in outputs)
    return Program(Path("benchmark"), "main", "CoreML7", inputs, names, operations=[operation])


def exact_results(case: Case) -> list[np.ndarray]:
    """In float64."""
    operands = [torch.from_numpy(array).double() for array in arrays_of(case).values()]
    found = case.exact(*operands)
    return [result.numpy() for result in (found if isinstance(found, tuple) else (found,))]


# --- the table ---


@dataclass(frozen=True)
class Comparison:
    """dB of two results each; equal: the share of Apple's values that are the rounded exact ones, to the bit."""

    together: float
    mil: float
    apple: float
    mil_equal: float
    apple_equal: float


def compare(case: Case, precision: Precision) -> tuple[Comparison, list[np.ndarray]]:
    """One operation at one precision; and Apple's results."""
    program = program_of(case)
    inputs = {name: arrays_of(case)[name] for name in program.inputs}
    ours = list(Evaluator(program, precision, fuse=False)(inputs).values())
    with bridged(program, precision) as asset:
        found = asset.call("main", inputs)
    apples = [found[name] for name in program.outputs]
    exact = exact_results(case)
    flat = [np.concatenate([np.asarray(part, np.float64).reshape(-1) for part in one]) for one in (exact, ours, apples)]
    right = flat[0].astype(np.float16 if precision == "fp16" else np.float32)
    equal = [float(np.mean(one.astype(right.dtype) == right)) for one in flat[1:]]
    return Comparison(psnr(flat[1], flat[2]), psnr(flat[0], flat[1]), psnr(flat[0], flat[2]), *equal), apples


def explained(case: Case, apples: list[np.ndarray]) -> str:
    """The share of Apple's fp16 values that the explanation gives to the bit; nothing without one.

    Raises `AssertionError` for an explanation that doesn't hold.
    """
    if case.explains is None:
        return ""
    share = float(np.mean(np.asarray(case.explains(*arrays_of(case).values())).astype(np.float32) == apples[0]))
    if share < EXPLAINED:
        raise AssertionError(f"{case.label}: what is said of Apple's result gives {share:.1%} of it")
    return f"{100 * share:.1f} %"


def decibels(value: float) -> str:
    """For the table."""
    return "equal" if value == math.inf else f"{value:.1f}"


def operations(only: list[str]) -> tuple[Table, bool]:
    """The table, and whether all agree in fp32."""
    rows: list[tuple[str, ...]] = []
    agreed = True
    for case in cases():
        if only and case.kind not in only:
            continue
        wide, _ = compare(case, "fp32")
        narrow, apples = compare(case, "fp16")
        agreed = agreed and wide.together >= OPERATORS_GATE_DB
        rows.append(
            (
                case.label,
                *(decibels(value) for value in (wide.together, wide.mil, wide.apple)),
                *(decibels(value) for value in (narrow.together, narrow.mil, narrow.apple)),
                f"{100 * narrow.mil_equal:.1f} %",
                f"{100 * narrow.apple_equal:.1f} %",
                explained(case, apples),
                case.why,
            )
        )
    columns = (
        "operation",
        "fp32: mil and Apple",
        "mil and float64",
        "Apple and float64",
        "fp16: mil and Apple",
        "mil and float64",
        "Apple and float64",
        "mil rounded once",
        "Apple rounded once",
        "explained",
        "why Apple's differs",
    )
    return Table("mil and Apple's Core AI runtime, operation by operation, dB", columns, tuple(rows), (0, 10)), agreed


def markdown(table: Table) -> str:
    """As a page has it."""
    lines = [table.columns, ["---" if n in table.text_columns else "---:" for n in range(len(table.columns))]]
    return "\n".join(f"| {' | '.join(line)} |" for line in (*lines, *table.rows))


def main() -> int:
    """Print the table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="KIND", help="only these kinds of operations or blocks"
    )
    parser.add_argument("--markdown", action="store_true", help="a table of Markdown")
    options = parser.parse_args()
    table, agreed = operations(options.only)
    print(markdown(table) if options.markdown else as_text([table]))
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
