"""The sizes of each kind of operation's results, from those of its operands."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from sfmobile.inspect.operations.sizes.walk import Rule, Sizes, Walk, slices
from sfmobile.mlpackage.program import Operation

RULES: dict[str, Rule] = {}


def _of(*kinds: str) -> Callable[[Rule], Rule]:
    """Registers a rule for operations of these kinds."""

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(kinds, rule))
        return rule

    return register


# --- one value after the other ---


@_of(
    "add", "sub", "mul", "real_div", "floor_div", "maximum", "minimum", "pow", "mod", "less", "less_equal", "greater",
    "greater_equal", "equal", "not_equal", "logical_and", "logical_or", "logical_xor",
)  # fmt: skip
def _broadcast(walk: Walk, operation: Operation) -> Sizes:
    return tuple(np.broadcast_shapes(walk.shape(operation), walk.shape(operation, "y")))


@_of("select")
def _select(walk: Walk, operation: Operation) -> Sizes:
    return tuple(np.broadcast_shapes(*(walk.shape(operation, name) for name in ("cond", "a", "b"))))


@_of(
    "relu", "relu6", "leaky_relu", "prelu", "gelu", "silu", "sigmoid", "sigmoid_hard", "tanh", "scaled_tanh", "softmax",
    "softplus", "softplus_parametric", "softsign", "elu", "clamped_relu", "linear_activation", "thresholded_relu",
    "layer_norm", "batch_norm", "instance_norm", "l2_norm", "local_response_norm", "exp", "exp2", "log", "sqrt",
    "rsqrt",
    "square", "abs", "sign", "inverse", "floor", "ceil", "round", "clip", "threshold", "erf", "sin", "cos", "tan",
    "cast", "identity", "cumsum", "reverse", "band_part", "logical_not", "scatter_along_axis", "argsort",
)  # fmt: skip
def _same(walk: Walk, operation: Operation) -> Sizes:
    return walk.shape(operation)


# --- products ---


def _window(walk: Walk, operation: Operation, kernel: Sequence[int], dilations: Sequence[int]) -> list[int]:
    sizes = walk.shape(operation)[2:]
    strides = walk.integers(operation, "strides", [1] * len(sizes))
    pad_type = walk.text(operation, "pad_type", "valid")
    if pad_type.startswith("same"):
        return [-(-size // stride) for size, stride in zip(sizes, strides, strict=True)]
    pad = walk.integers(operation, "pad", [0] * 2 * len(sizes)) if pad_type == "custom" else [0] * 2 * len(sizes)
    up = walk.integers(operation, "ceil_mode", [0])[0]
    found = []
    for axis, (size, stride) in enumerate(zip(sizes, strides, strict=True)):
        room = size + pad[2 * axis] + pad[2 * axis + 1] - (kernel[axis] - 1) * dilations[axis] - 1
        found.append((-(-room // stride) if up else room // stride) + 1)
    return found


@_of("conv")
def _conv(walk: Walk, operation: Operation) -> Sizes:
    x, weight = walk.shape(operation), walk.shape(operation, "weight")
    dilations = walk.integers(operation, "dilations", [1] * (len(x) - 2))
    return (x[0], weight[0], *_window(walk, operation, weight[2:], dilations))


@_of("avg_pool", "max_pool", "l2_pool")
def _pool(walk: Walk, operation: Operation) -> Sizes:
    kernel = walk.integers(operation, "kernel_sizes")
    return (*walk.shape(operation)[:2], *_window(walk, operation, kernel, [1] * len(kernel)))


@_of("conv_transpose")
def _conv_transpose(walk: Walk, operation: Operation) -> Sizes:
    x, weight = walk.shape(operation), walk.shape(operation, "weight")
    spatial = len(x) - 2
    (groups,) = walk.integers(operation, "groups", [1])
    strides = walk.integers(operation, "strides", [1] * spatial)
    dilations = walk.integers(operation, "dilations", [1] * spatial)
    pad_type = walk.text(operation, "pad_type", "valid")
    channels = weight[1] * groups
    if "output_shape" in operation.inputs:
        return (x[0], channels, *walk.integers(operation, "output_shape")[-spatial:])
    if pad_type.startswith("same"):
        return (x[0], channels, *(size * stride for size, stride in zip(x[2:], strides, strict=True)))
    pad = walk.integers(operation, "pad", [0] * 2 * spatial) if pad_type == "custom" else [0] * 2 * spatial
    sizes = [
        (size - 1) * strides[axis] + (weight[2 + axis] - 1) * dilations[axis] + 1 - pad[2 * axis] - pad[2 * axis + 1]
        for axis, size in enumerate(x[2:])
    ]
    return (x[0], channels, *sizes)


@_of("linear")
def _linear(walk: Walk, operation: Operation) -> Sizes:
    return (*walk.shape(operation)[:-1], walk.shape(operation, "weight")[0])


@_of("matmul")
def _matmul(walk: Walk, operation: Operation) -> Sizes | None:
    x, y = walk.shape(operation), walk.shape(operation, "y")
    if min(len(x), len(y)) < 2:
        return None
    rows = x[-1] if walk.integers(operation, "transpose_x", [0])[0] else x[-2]
    columns = y[-2] if walk.integers(operation, "transpose_y", [0])[0] else y[-1]
    return (*np.broadcast_shapes(x[:-2], y[:-2]), rows, columns)


@_of("scaled_dot_product_attention")
def _attention(walk: Walk, operation: Operation) -> Sizes:
    return (*walk.shape(operation, "query")[:-1], walk.shape(operation, "value")[-1])


@_of("einsum")
def _einsum(walk: Walk, operation: Operation) -> Sizes | None:
    constant = walk.program.constant(walk.item(operation, "equation"))
    equation = str(constant.load()) if constant is not None else ""
    terms, _, result = equation.replace(" ", "").partition("->")
    letters: dict[str, int] = {}
    for term, item in zip(terms.split(","), operation.inputs.get("values", ()), strict=True):
        sizes = walk.size_of(item)
        if sizes is None:
            return None
        letters.update(zip(term, sizes, strict=True))
    return tuple(letters[letter] for letter in result) if all(letter in letters for letter in result) else None


# --- shapes ---


@_of("reshape")
def _reshape(walk: Walk, operation: Operation) -> Sizes:
    x, wanted = walk.shape(operation), walk.integers(operation, "shape")
    sizes = [x[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    if -1 in sizes:
        sizes[sizes.index(-1)] = math.prod(x) // max(math.prod(size for size in sizes if size != -1), 1)
    return tuple(sizes)


@_of("transpose")
def _transpose(walk: Walk, operation: Operation) -> Sizes:
    x = walk.shape(operation)
    return tuple(x[axis] for axis in walk.integers(operation, "perm"))


@_of("expand_dims")
def _expand(walk: Walk, operation: Operation) -> Sizes:
    return np.expand_dims(np.broadcast_to(0, walk.shape(operation)), tuple(walk.integers(operation, "axes"))).shape


@_of("squeeze")
def _squeeze(walk: Walk, operation: Operation) -> Sizes:
    x = walk.shape(operation)
    dropped = {axis % len(x) for axis in walk.integers(operation, "axes", [i for i, size in enumerate(x) if size == 1])}
    return tuple(size for axis, size in enumerate(x) if axis not in dropped)


@_of("concat")
def _concat(walk: Walk, operation: Operation) -> Sizes | None:
    parts = [walk.size_of(item) for item in operation.inputs.get("values", ())]
    known = [list(part) for part in parts if part is not None]
    (axis,) = walk.integers(operation, "axis")
    if len(known) != len(parts):
        return None
    known[0][axis] = sum(part[axis] for part in known)
    return tuple(known[0])


@_of("stack")
def _stack(walk: Walk, operation: Operation) -> Sizes | None:
    items = operation.inputs.get("values", ())
    first = walk.size_of(items[0])
    (axis,) = walk.integers(operation, "axis")
    if first is None:
        return None
    place = axis % (len(first) + 1)
    return (*first[:place], len(items), *first[place:])


@_of("split")
def _split(walk: Walk, operation: Operation) -> Sequence[Sizes]:
    x = list(walk.shape(operation))
    (axis,) = walk.integers(operation, "axis")
    count = len(operation.outputs)
    parts = walk.integers(operation, "split_sizes", [x[axis] // count] * count)
    return [(*x[: axis % len(x)], size, *x[axis % len(x) + 1 :]) for size in parts]


@_of("slice_by_index")
def _slice_by_index(walk: Walk, operation: Operation) -> Sizes:
    x = walk.shape(operation)
    found = []
    for size, (first, last, step, first_free, last_free, single) in zip(
        x, slices(walk, operation, len(x)), strict=True
    ):
        if not single:
            cut = slice(None if first_free else first, None if last_free else last, step or 1)
            found.append(len(range(*cut.indices(size))))
    return tuple(found)


@_of("slice_by_size")
def _slice_by_size(walk: Walk, operation: Operation) -> Sizes:
    x, begin, wanted = walk.shape(operation), walk.integers(operation, "begin"), walk.integers(operation, "size")
    return tuple(
        full - start % max(full, 1) if size == -1 else size for full, start, size in zip(x, begin, wanted, strict=True)
    )


@_of("pad")
def _pad(walk: Walk, operation: Operation) -> Sizes:
    x, amounts = list(walk.shape(operation)), walk.integers(operation, "pad")
    for place in range(len(amounts) // 2):
        x[len(x) - len(amounts) // 2 + place] += amounts[2 * place] + amounts[2 * place + 1]
    return tuple(x)


@_of("tile")
def _tile(walk: Walk, operation: Operation) -> Sizes:
    return tuple(
        size * times for size, times in zip(walk.shape(operation), walk.integers(operation, "reps"), strict=True)
    )


@_of("gather")
def _gather(walk: Walk, operation: Operation) -> Sizes:
    x, indices = walk.shape(operation), walk.shape(operation, "indices")
    axis = walk.integers(operation, "axis", [0])[0] % len(x)
    (batch,) = walk.integers(operation, "batch_dims", [0])
    return (*x[:axis], *indices[batch:], *x[axis + 1 :])


@_of("reduce_mean", "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_l2_norm", "reduce_l1_norm",
     "reduce_argmax", "reduce_argmin", "reduce_log_sum_exp")  # fmt: skip
def _reduce(walk: Walk, operation: Operation) -> Sizes:
    x = walk.shape(operation)
    argument = "axis" if "arg" in operation.kind else "axes"
    axes = {axis % len(x) for axis in walk.integers(operation, argument, list(range(len(x))))}
    if walk.integers(operation, "keep_dims", [0])[0]:
        return tuple(1 if axis in axes else size for axis, size in enumerate(x))
    return tuple(size for axis, size in enumerate(x) if axis not in axes)


# --- pictures ---


@_of("upsample_nearest_neighbor", "upsample_bilinear")
def _upsample(walk: Walk, operation: Operation) -> Sizes:
    x = walk.shape(operation)
    factors = []
    for side in ("scale_factor_height", "scale_factor_width"):
        value = walk.number_of(walk.item(operation, side)) if side in operation.inputs else np.array(1)
        if value is None:
            raise ValueError(side)
        factors.append(float(value.reshape(())))
    return (*x[:-2], math.floor(x[-2] * factors[0]), math.floor(x[-1] * factors[1]))


@_of("pixel_shuffle", "depth_to_space")
def _shuffle(walk: Walk, operation: Operation) -> Sizes:
    n, channels, height, width = walk.shape(operation)
    (factor,) = walk.integers(operation, "upscale_factor" if operation.kind == "pixel_shuffle" else "block_size")
    return (n, channels // factor**2, height * factor, width * factor)


# --- sequences ---


@_of("lstm", "gru", "rnn")
def _recurrent(walk: Walk, operation: Operation) -> Sequence[Sizes]:
    steps, batch, _ = walk.shape(operation)
    width = walk.shape(operation, "initial_h")[-1]
    whole = steps if walk.integers(operation, "output_sequence", [0])[0] else 1
    return [(whole, batch, width), (batch, width), (batch, width)]
