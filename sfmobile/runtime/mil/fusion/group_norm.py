"""Group normalisation, which MIL has no op for: reshape, normalise, reshape, `batch_norm` for the affine part."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sfmobile.mlpackage.graph import Graph
from sfmobile.mlpackage.program import Operand, Operation
from sfmobile.mlpackage.rewriting import literal
from sfmobile.runtime.mil.ops.registry import op


@op("fused.group_norm", fresh=True)
def group_norm(x: Tensor, gamma: Tensor, beta: Tensor, *, groups: int, epsilon: float) -> Tensor:
    """Group normalisation. x (N, C, *D), gamma and beta (C)."""
    return torch.group_norm(x, groups, gamma, beta, epsilon)


@op("fused.rounded_group_norm", fresh=True)
def rounded_group_norm(x: Tensor, gamma: Tensor, beta: Tensor, *, groups: int, epsilon: float) -> Tensor:
    """The same with the normalised values rounded to float16 before scale and shift. x (N, C, *D)."""
    normal = torch.group_norm(x, groups, None, None, epsilon)
    normal.copy_(normal.to(torch.float16))
    along = (-1, *(1,) * (x.dim() - 2))
    return torch.addcmul(beta.view(along), normal, gamma.view(along))


def fuse_group_norm(graph: Graph, operation: Operation) -> Operation | None:
    """Rooted at the `batch_norm`. The statistics' form is `instance_norm` or coremltools' own chain of primitives."""
    back = _reshape_behind(graph, operation)
    if back is None:
        return None
    inner = graph.operand(back, "x")
    found = _instance_norm(graph, inner) or _chain(graph, inner)
    return None if found is None else _fused(graph, operation, back, *found, kind="fused.group_norm")


def fuse_rounded_group_norm(graph: Graph, operation: Operation) -> Operation | None:
    """The form with `instance_norm`, all float16, for fp16 evaluation."""
    back = _reshape_behind(graph, operation)
    found = None if back is None else _instance_norm(graph, graph.operand(back, "x"))
    if back is None or found is None or not graph.one_type([operation, back, found[0]]):
        return None
    if operation.outputs[0][1].data_type != "fp16":
        return None
    return _fused(graph, operation, back, *found, kind="fused.rounded_group_norm")


def _reshape_behind(graph: Graph, operation: Operation) -> Operation | None:
    """The reshape back to channels that a `batch_norm` reads."""
    return graph.made_by(graph.operand(operation, "x"), "reshape") if operation.kind == "batch_norm" else None


def _fused(
    graph: Graph, operation: Operation, back: Operation, grouped: Operation, epsilon: float, kind: str
) -> Operation | None:
    """One op for all between the reshape to groups and the `batch_norm`, if the groups are groups of channels."""
    x = graph.operand(grouped, "x")
    shape, parts = graph.shape(x), graph.shape(grouped.outputs[0][0])
    if shape is None or parts is None or shape != graph.shape(back.outputs[0][0]):
        return None
    if len(parts) < 3 or parts[0] != shape[0] or shape[1] % parts[1]:
        return None
    affine = _affine(graph, operation, shape[1])
    if affine is None or x is None:
        return None
    gamma, beta = affine
    inputs: dict[str, tuple[Operand, ...]] = {
        "x": (x,),
        "gamma": (literal(gamma),),
        "beta": (literal(beta),),
        "groups": (literal(parts[1]),),
        "epsilon": (literal(epsilon),),
    }
    return Operation(operation.position, kind, operation.name, inputs, operation.outputs)


def _instance_norm(graph: Graph, item: Operand | None) -> tuple[Operation, float] | None:
    """The reshape before a plain `instance_norm`, and its epsilon."""
    norm = graph.made_by(item, "instance_norm")
    if norm is None or {"gamma", "beta"} & set(norm.inputs):
        return None
    grouped = graph.made_by(graph.operand(norm, "x"), "reshape")
    epsilon = graph.attribute(norm, "epsilon", 1e-5)
    return (grouped, epsilon) if grouped is not None and isinstance(epsilon, float) else None


def _chain(graph: Graph, item: Operand | None) -> tuple[Operation, float] | None:
    """The reshape before (x - mean) / sqrt(mean((x - mean)^2) + epsilon), and the epsilon."""
    quotient = graph.made_by(item, "real_div")
    if quotient is None:
        return None
    centred = graph.made_by(graph.operand(quotient, "x"), "sub", alone=False)
    root = graph.made_by(graph.operand(quotient, "y"), "sqrt")
    raised = None if root is None else graph.made_by(graph.operand(root, "x"), "add")
    if centred is None or raised is None:
        return None
    variance = graph.made_by(graph.operand(raised, "x"), "reduce_mean")
    epsilon = graph.number(graph.operand(raised, "y"))
    squares = None if variance is None else graph.made_by(graph.operand(variance, "x"), "square")
    mean = graph.made_by(graph.operand(centred, "y"), "reduce_mean")
    if variance is None or squares is None or mean is None or epsilon is None:
        return None
    (name, _) = centred.outputs[0]
    if graph.operand(squares, "x") != name or graph.uses[name] != 2:
        return None
    x = graph.operand(centred, "x")
    grouped = graph.made_by(x, "reshape", alone=False)
    if grouped is None or graph.operand(mean, "x") != x or graph.uses[str(x)] != 2:
        return None
    rank = len(graph.shape(x) or ())
    for statistics in (mean, variance):
        axes = graph.attribute(statistics, "axes")
        if not isinstance(axes, list) or not graph.attribute(statistics, "keep_dims", False):
            return None
        if sorted(axis % rank for axis in axes) != list(range(2, rank)):
            return None
    return grouped, epsilon


def _affine(graph: Graph, operation: Operation, channels: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The scale and shift (C) that a `batch_norm` of constants amounts to."""
    values: dict[str, np.ndarray] = {}
    for argument, default in (("mean", 0.0), ("variance", 1.0), ("gamma", 1.0), ("beta", 0.0)):
        if argument in operation.inputs:
            value = graph.value(graph.operand(operation, argument))
            if not isinstance(value, np.ndarray) or value.shape != (channels,):
                return None
            values[argument] = value.astype(np.float64)
        else:
            values[argument] = np.full(channels, default)
    epsilon = graph.attribute(operation, "epsilon", 1e-5)
    if not isinstance(epsilon, float):
        return None
    gamma = values["gamma"] / np.sqrt(values["variance"] + epsilon)
    beta = values["beta"] - values["mean"] * gamma
    return gamma.astype(np.float32), beta.astype(np.float32)
