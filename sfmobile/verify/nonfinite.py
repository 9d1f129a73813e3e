"""Where NaN or infinity first appears in a call: the operation of a program, or the module of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sfmobile.verify.divergence import trace_modules

if TYPE_CHECKING:
    from torch import nn

    from sfmobile.mlpackage.program import Program
    from sfmobile.runtime.choices import Precision
    from sfmobile.runtime.mil.evaluate import OpResult
    from sfmobile.verify.recording import Call


class _Found(Exception):
    """The first operation is known; what follows needn't run."""


def broken_operation(program: Program, call: Call, precision: Precision) -> str | None:
    """The first operation whose result holds NaN or infinity, in words; None if none does."""
    from sfmobile.runtime.mil.evaluate import Evaluator

    found: list[str] = []

    def see(result: OpResult) -> None:
        if result.value.dtype.kind == "f" and not np.isfinite(result.value).all():
            positions = [operation.position for operation in program.operations]
            place = f"operation {positions.index(result.position) + 1} of {len(positions)}"
            found.append(f"{place}, {result.kind} '{result.operation}', in {precision}")
            raise _Found

    try:
        Evaluator(program, precision, fuse=False, lean=True).trace(call.inputs, see)
    except _Found:
        return found[0]
    return None


def broken_module(network: nn.Module, call: Call) -> str | None:
    """The first module with a weight whose output holds NaN or infinity, in words; None if none does."""
    for name, sample in trace_modules(network, call).items():
        if sample.nonfinite:
            return f"module '{name}'"
    return None
