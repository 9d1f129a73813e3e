"""Every weight that a package stores, against the checkpoint's: by value, layout and order, without running anything.

Each parameter of a network is one constant of its program, under the parameter's name. A weight that isn't compressed
must be the source's rounded to float16, bit for bit. A palettized one may be off by what the best table of that many
entries is off (`compress.kmeans` finds it), and no more: an exchanged entry, a swapped channel, a scaled bias is more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from sfmobile.compress.compiled import compiled
from sfmobile.compress.kmeans import TABLE
from sfmobile.compress.palettize import palettize_weight, worker_count
from sfmobile.compress.recipe import FULL_BITS, LayerRecipe
from sfmobile.mlpackage.names import PALETTIZED, constant_name
from sfmobile.verify.decompression import LOOKUP, decode

if TYPE_CHECKING:
    from torch import Tensor

    from sfmobile.mlpackage.program import Constant, Program

# How a wrong weight looks beside its source.
Look = Literal["missing", "shape", "not finite", "recipe", "order", "sign", "scale", "offset", "values"]
# The best table isn't unique where values tie; its squared error is, up to the order of summation in float64.
SLACK = 1e-5


@dataclass(frozen=True)
class WeightFault:
    """A parameter that isn't stored as it should be.

    look: what kind of fault it looks like. error: root of the mean squared difference to the source, relative to the
    source's root mean square; allowed: what the recipe accounts for. detail: figures of that look, for people.
    """

    parameter: str
    look: Look
    error: float | None
    allowed: float
    detail: str

    def __str__(self) -> str:
        return f"weight '{self.parameter}': {self.detail}"


@dataclass(frozen=True)
class StoredWeights:
    """How the weights of a component are stored, and what is wrong with them.

    compared: how many parameters there are. compressed: how many of them are palettized. whole: whether each is there
    in its shape, so that a network can be built of them.
    worst: the parameter with the largest relative error, and that error; None if all are the source's to the bit.
    """

    compared: int
    compressed: int
    whole: bool
    worst: tuple[str, float] | None
    faults: tuple[WeightFault, ...]


@dataclass
class Known:
    """What is worked out once for several looks at the weights of one source.

    best: the least squared error that a recipe leaves of a parameter. compared: of one package, whose functions store
    most weights once, by parameter and the mark of its constant.
    """

    best: dict[tuple[str, LayerRecipe], float] = field(default_factory=dict)
    compared: dict[tuple[str, bytes], _Compared] = field(default_factory=dict)

    def least_error(self, parameter: str, expected: np.ndarray, layer: LayerRecipe) -> float:
        """Of the best tables of a weight, float16; nothing where it isn't palettized."""
        if layer.bits == FULL_BITS:
            return 0.0
        if (parameter, layer) not in self.best:
            self.best[parameter, layer] = palettize_weight(expected, layer).error
        return self.best[parameter, layer]

    def of_another_package(self) -> Known:
        """For the same source's weights in another package."""
        return Known(self.best)


def compare_weights(
    program: Program,
    source: Mapping[str, Tensor],
    recipe: Callable[[str], LayerRecipe | None],
    advance: Callable[[int], None] = lambda weights: None,
    known: Known | None = None,
) -> StoredWeights:
    """Compare what `program` stores with the parameters of its network.

    source: by parameter name, in any float type. recipe: how a parameter is to be stored, or None where that isn't
    known (then any number of bits is taken, and its error held to that number). `advance` is told weights compared.
    known: from other functions of the same package, and for them.
    """
    constants = dict(stored_constants(program))
    known = known or Known()

    def compared(parameter: str) -> _Compared:
        constant = constants.get(constant_name(parameter))
        if constant is None:
            missing = WeightFault(parameter, "missing", None, 0.0, "the package has no such constant")
            return _Compared(missing, math.inf, compressed=False, whole=False)
        if constant.mark is None:
            return _compared(parameter, constant, source[parameter], recipe(parameter), known)
        key = parameter, constant.mark()
        if key not in known.compared:
            known.compared[key] = _compared(parameter, constant, source[parameter], recipe(parameter), known)
        return known.compared[key]

    results: dict[str, _Compared] = {}
    with ThreadPoolExecutor(worker_count()) as workers:
        for parameter, result in zip(source, workers.map(compared, source), strict=True):
            results[parameter] = result
            advance(source[parameter].numel())
    errors = {parameter: one.error for parameter, one in results.items() if math.isfinite(one.error)}
    worst = max(errors.items(), key=lambda item: item[1], default=None)
    return StoredWeights(
        compared=len(source),
        compressed=sum(one.compressed for one in results.values()),
        whole=all(one.whole for one in results.values()),
        worst=worst if worst and worst[1] > 0 else None,
        faults=tuple(one.fault for one in results.values() if one.fault is not None),
    )


def _compared(
    parameter: str, constant: Constant, source: Tensor, recipe: LayerRecipe | None, known: Known
) -> _Compared:
    expected = _half(source)
    try:
        found = decode(constant).astype(np.float16, copy=False)
    except ValueError as reason:
        broken = WeightFault(parameter, "shape", None, 0.0, f"can't be decoded: {reason}")
        return _Compared(broken, math.inf, constant.compressed, whole=False)
    fault, error = compare_weight(parameter, storage_of(constant), found, expected, recipe, known)
    return _Compared(fault, error, constant.compressed, found.size == expected.size)


@dataclass(frozen=True)
class _Compared:
    """One parameter: what is wrong, its relative error, whether it is palettized, whether it has its shape."""

    fault: WeightFault | None
    error: float
    compressed: bool
    whole: bool


def stored_constants(program: Program) -> Iterator[tuple[str, Constant]]:
    """The constants that operations read, by the name of the parameter's constant (without what compressing adds)."""
    read = {
        item
        for operation in program.operations
        for items in operation.inputs.values()
        for item in items
        if isinstance(item, str) and item in program.constants
    }
    for name in read:
        yield name.removesuffix(PALETTIZED), program.constants[name]


def _half(tensor: Tensor) -> np.ndarray:
    return tensor.half().numpy()


def compare_weight(
    parameter: str,
    stored: LayerRecipe,
    found: np.ndarray,
    expected: np.ndarray,
    recipe: LayerRecipe | None,
    known: Known | None = None,
) -> tuple[WeightFault | None, float]:
    """The fault of one weight, if it has one, and its relative error.

    stored: how it is stored; recipe: how it is to be, if that is known. found, expected: float16.
    """

    def fault(look: Look, detail: str, error: float | None = None, allowed: float = 0.0) -> WeightFault:
        return WeightFault(parameter, look, error, allowed, detail)

    if found.size != expected.size or layout_of(found.shape) != layout_of(expected.shape):
        return fault("shape", f"stored as {found.shape}, expected {expected.shape}"), math.inf
    found = found.reshape(expected.shape)
    if not np.isfinite(found).all():
        return fault("not finite", "holds infinite values or NaN"), math.inf
    if recipe is not None and stored != _storable(recipe, expected.shape):
        wanted = _storable(recipe, expected.shape)
        return fault("recipe", f"stored as {_words(stored)}, expected {_words(wanted)}"), 0.0
    if np.array_equal(found.view(np.uint16), expected.view(np.uint16)):
        return None, 0.0
    squared = squared_error(found, expected)
    size = math.sqrt(squared_error(expected, np.zeros(1, np.float16))) or 1.0
    error = math.sqrt(squared) / size
    best = (known or Known()).least_error(parameter, expected, stored)
    if stored.bits != FULL_BITS and squared <= best * (1 + SLACK) + 1e-12:
        return None, error
    allowed = math.sqrt(best) / size
    look, detail = _look(found, expected, best)
    return fault(look, f"{detail} (relative error {error:.3g}, expected {allowed:.3g})", error, allowed), error


def storage_of(constant: Constant) -> LayerRecipe:
    """How a constant is stored: bits of its tables, and channels per table where it has several."""
    if constant.encoded is None:
        return LayerRecipe(bits=FULL_BITS)
    kind, arguments = constant.encoded()
    if kind != LOOKUP:
        return LayerRecipe(bits=FULL_BITS)
    lut = np.asarray(arguments["lut"])
    entries = lut.shape[0] if lut.ndim == 1 else lut.shape[-2]
    tables = 1 if lut.ndim == 1 else lut.shape[0]
    channels = constant.type.shape[0] or 1
    return LayerRecipe(bits=int(entries).bit_length() - 1, group_size=None if tables == 1 else channels // tables)


def _storable(recipe: LayerRecipe, shape: tuple[int, ...]) -> LayerRecipe:
    """The recipe as the palettizer carries it out: one table where groups don't divide the channels, or make one."""
    group = recipe.group_size
    if group is not None and (shape[0] % group or group == shape[0]):
        return LayerRecipe(bits=recipe.bits)
    return recipe


def _words(recipe: LayerRecipe) -> str:
    if recipe.bits == FULL_BITS:
        return "float16"
    return f"{recipe.bits} bits" + ("" if recipe.group_size is None else f" per {recipe.group_size} channels")


def layout_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without its ones: (C,) and (1, C, 1, 1) hold values in the same order."""
    return tuple(size for size in shape if size != 1)


def squared_error(found: np.ndarray, expected: np.ndarray) -> float:
    """The sum of the squared differences of two float16 arrays; one value is taken for all of the other's."""
    x, y = (np.ascontiguousarray(one, np.float16).reshape(-1).view(np.uint16) for one in (found, expected))
    return _squared_error(x, y, TABLE)


@compiled
def _squared_error(found: NDArray[np.uint16], expected: NDArray[np.uint16], table: NDArray[np.float32]) -> float:
    """Of half floats by their bit patterns: they differ exactly in double. table: the value of each pattern."""
    total = 0.0
    # One value for all isn't looked up again and again by stepping over it.
    stride = 0 if expected.size == 1 else 1
    for position in range(found.size):
        difference = float(table[found[position]]) - float(table[expected[position * stride]])
        total += difference * difference
    return total


def _look(found: np.ndarray, expected: np.ndarray, best: float) -> tuple[Look, str]:
    """What turns the source into what is stored, as far as one cause explains nearly all of the difference."""
    x, y = expected.reshape(-1).astype(np.float64), found.reshape(-1).astype(np.float64)
    # A cause explains a fault if what it leaves is about what compression leaves anyway.
    enough = 2 * best + 1e-6 * float(np.square(y).sum())
    if float(np.square(np.sort(x) - np.sort(y)).sum()) <= enough:
        return "order", "holds the source's values in another order"
    if float(np.square(x + y).sum()) <= enough:
        return "sign", "holds the source's values with their signs turned"
    factor = float(x @ y) / float(x @ x or 1.0)
    if float(np.square(factor * x - y).sum()) <= enough:
        return "scale", f"holds the source's values times {factor:.4g}"
    shift = float((y - x).mean())
    if float(np.square(x + shift - y).sum()) <= enough:
        return "offset", f"holds the source's values plus {shift:.4g}"
    changed = np.abs(y - x) > 1e-3 * (np.abs(x).max() or 1.0)
    return "values", f"{int(changed.sum())} of {x.size} values differ from the source's"
