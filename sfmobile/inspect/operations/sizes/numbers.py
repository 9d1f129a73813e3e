"""The whole numbers that a program computes shapes with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sfmobile.inspect.operations.sizes.walk import Number, Walk, slices
from sfmobile.mlpackage.program import Operation


def _sliced(walk: Walk, operation: Operation) -> np.ndarray:
    x = walk.value(operation)
    places = tuple(
        slice(None if first_free else first, None if last_free else last, step or 1) if not single else first
        for first, last, step, first_free, last_free, single in slices(walk, operation, x.ndim)
    )
    return np.asarray(x[places])


def _pair(function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Number:
    return lambda walk, operation: function(walk.value(operation, "x"), walk.value(operation, "y"))


def _joined(walk: Walk, operation: Operation) -> np.ndarray:
    parts = [walk.number_of(item) for item in operation.inputs.get("values", ())]
    known = [part if operation.kind == "stack" else np.atleast_1d(part) for part in parts if part is not None]
    if len(known) != len(parts):
        raise ValueError("values")
    (axis,) = walk.integers(operation, "axis")
    return np.stack(known, axis) if operation.kind == "stack" else np.concatenate(known, axis)


SHAPE_MATH: dict[str, Number] = {
    "shape": lambda walk, operation: np.array(walk.shape(operation)),
    "slice_by_index": _sliced,
    "gather": lambda walk, operation: np.take(
        walk.value(operation), walk.value(operation, "indices"), walk.integers(operation, "axis", [0])[0]
    ),
    "cast": lambda walk, operation: walk.value(operation),
    "identity": lambda walk, operation: walk.value(operation),
    "squeeze": lambda walk, operation: walk.value(operation).reshape(
        [size for size in walk.value(operation).shape if size != 1]
    ),
    "expand_dims": lambda walk, operation: np.expand_dims(
        walk.value(operation), tuple(walk.integers(operation, "axes"))
    ),
    "concat": _joined,
    "stack": _joined,
    "add": _pair(np.add),
    "sub": _pair(np.subtract),
    "mul": _pair(np.multiply),
    "floor_div": _pair(np.floor_divide),
    "real_div": _pair(np.true_divide),
    "maximum": _pair(np.maximum),
    "minimum": _pair(np.minimum),
}
