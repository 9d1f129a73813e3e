"""Palettized weights in a MIL program: each constant becomes a lookup table and indices, by recipe."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sfmobile.compress.kmeans import pack_bits, palettize
from sfmobile.compress.recipe import FULL_BITS, LayerRecipe
from sfmobile.errors import ArtifactError
from sfmobile.mlpackage.names import palettized_name

if TYPE_CHECKING:
    from coremltools.converters.mil.mil import Operation, Program

# Tensors in work at a time, beyond one per worker: bounds the memory for indices that wait to be placed.
LOOKAHEAD = 2
MAX_WORKERS = 8


@dataclass(frozen=True)
class PalettizedWeight:
    """luts: (groups, 2**bits) fp16, one per `group_size` output channels; indices: uint8 of the weight's shape.

    error: weighted sum of squared differences over all weights.
    """

    bits: int
    luts: NDArray[np.float16]
    indices: NDArray[np.uint8]
    error: float

    def dense(self) -> NDArray[np.float16]:
        """The weight as a device reads it."""
        rows = self.indices.reshape(len(self.luts), -1)
        return np.take_along_axis(self.luts, rows.astype(np.intp), axis=1).reshape(self.indices.shape)


def palettize_weight(
    weight: NDArray[np.float16], layer: LayerRecipe, importance: NDArray[np.float32] | None = None
) -> PalettizedWeight:
    """Palettize one weight (output channels first) as `layer` says, with one table or one per group of channels.

    A group size that doesn't divide the channels falls back to one table for all. `importance` as in
    `kmeans.palettize`. Raises `ValueError` for weights that are not finite.
    """
    channels = weight.shape[0]
    size = layer.group_size or channels
    if channels % size:
        size = channels
    spread = None if importance is None else np.broadcast_to(importance, weight.shape)
    luts = np.empty((channels // size, 1 << layer.bits), np.float16)
    indices = np.empty(weight.shape, np.uint8)
    error = price = 0.0
    for group in range(len(luts)):
        rows = slice(group * size, (group + 1) * size)
        palette = palettize(weight[rows], layer.bits, None if spread is None else spread[rows], price)
        luts[group], indices[rows] = palette.lut, palette.indices
        error += palette.error
        # Groups of one weight are alike: the last price is a good first guess.
        price = palette.price
    return PalettizedWeight(layer.bits, luts, indices, error)


def palettize_program(
    program: Program,
    layers: Mapping[str, LayerRecipe],
    importance: Mapping[str, NDArray[np.float32]] | None = None,
    advance: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Replace the constants named by `layers` (constant name -> storage) in `program` by lookup tables.

    importance: by constant name, see `kmeans.palettize`. `advance` is told the number of weights done.
    Returns the squared error per constant. Raises `ArtifactError` naming a weight that is not finite.
    """
    function = program.functions["main"]
    constants = [
        operation
        for operation in list(function.operations)
        if operation.op_type == "const"
        and operation.name in layers
        and layers[operation.name].bits != FULL_BITS
        and operation.outputs[0].child_ops
    ]
    importance = importance or {}
    errors: dict[str, float] = {}

    def work(constant: Operation) -> PalettizedWeight:
        try:
            return palettize_weight(constant.outputs[0].val, layers[constant.name], importance.get(constant.name))
        except ValueError as error:
            raise ArtifactError(f"Weight '{constant.name}' can't be palettized: {error}.") from error

    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil.scope import ScopeInfo, ScopeSource

    scope = ScopeInfo(source=ScopeSource.COREMLTOOLS_GRAPH_PASS, data=["sfmobile.palettize"])
    with function, mb.scope(scope):
        for constant, weight in _in_order(work, constants):
            _replace(constant, weight)
            errors[constant.name] = weight.error
            if advance is not None:
                advance(weight.indices.size)
    return errors


def worker_count() -> int:
    """Threads that palettize side by side."""
    return min(MAX_WORKERS, os.cpu_count() or 1)


def _in_order(
    work: Callable[[Operation], PalettizedWeight], constants: list[Operation]
) -> Iterator[tuple[Operation, PalettizedWeight]]:
    """Results of `work` in order, computed on several threads (the compiled loops release the GIL)."""
    workers = worker_count()
    with ThreadPoolExecutor(workers) as pool:
        running: list[tuple[Operation, Future[PalettizedWeight]]] = []
        waiting = iter(constants)
        try:
            for constant in waiting:
                running.append((constant, pool.submit(work, constant)))
                if len(running) > workers + LOOKAHEAD:
                    done, future = running.pop(0)
                    yield done, future.result()
            for done, future in running:
                yield done, future.result()
        finally:
            for _, future in running:
                future.cancel()


def _replace(constant: Operation, weight: PalettizedWeight) -> None:
    """Put `weight` in the place of `constant` in its block, in the form its opset stores."""
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil._deployment_compatibility import AvailableTarget
    from coremltools.converters.mil.mil import types
    from coremltools.converters.mil.mil.block import is_current_opset_version_compatible_with

    name = palettized_name(constant.name)
    if is_current_opset_version_compatible_with(AvailableTarget.iOS18):
        unit = types.nptype_from_builtin(types.string_to_builtin(f"uint{weight.bits}"))
        trailing = (1,) * (weight.indices.ndim - 1)
        dense = mb.constexpr_lut_to_dense(
            indices=weight.indices.view(unit),
            lut=weight.luts.reshape((len(weight.luts), *trailing, 1 << weight.bits, 1)),
            before_op=constant,
            name=name,
        )
    else:
        dense = mb.constexpr_lut_to_dense(
            indices=pack_bits(weight.indices.reshape(-1), weight.bits),
            lut=weight.luts[0],
            shape=np.array(weight.indices.shape, np.uint32),
            before_op=constant,
            name=name,
        )
    block = constant.enclosing_block
    block.replace_uses_of_var_after_op(
        anchor_op=constant, old_var=constant.outputs[0], new_var=dense, no_check_var_types=True
    )
    block.remove_ops([constant])
