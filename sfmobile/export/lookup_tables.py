"""Palettized weights in a MIL program: each constant becomes a lookup table and indices, by recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sfmobile.compress.kmeans import pack_bits
from sfmobile.compress.palettize import PalettizedWeight, palettize_weight, worker_count
from sfmobile.compress.recipe import FULL_BITS, LayerRecipe
from sfmobile.errors import ArtifactError
from sfmobile.export import coremltools_names as names
from sfmobile.mlpackage.names import palettized_name

if TYPE_CHECKING:
    from sfmobile.export.coremltools_names import Operation, Program

# Tensors in work at a time, beyond one per worker: bounds the memory for indices that wait to be placed.
LOOKAHEAD = 2


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

    scope = names.SCOPE_INFO.load()(source=names.GRAPH_PASS_SCOPE.load(), data=["sfmobile.palettize"])
    with function, mb.scope(scope):
        for constant, weight in _in_order(work, constants):
            _replace(constant, weight)
            errors[constant.name] = weight.error
            if advance is not None:
                advance(weight.indices.size)
    return errors


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
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb

    types = names.TYPES.load()
    name = palettized_name(constant.name)
    if names.OPSET_IS_AT_LEAST.load()(ct.target.iOS18):
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
