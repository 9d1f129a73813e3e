"""What operations compute with beside weights, against what the network's modules say: epsilons, axes, scales, masks.

An epsilon beside a large variance moves an output by less than any gate sees, and a normalisation that divides by the
wrong one still draws a picture, until a flat latent comes; one activation approximated among many hides as well. So
they are read, not measured: each normalisation belongs to a module by its weight, each scale of an attention to its
module by its operation's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from sfmobile.mlpackage.graph import Graph
from sfmobile.mlpackage.names import constant_name, origin
from sfmobile.nets.attention import Attention
from sfmobile.verify.divergence import weight_owners

if TYPE_CHECKING:
    from torch import nn

    from sfmobile.mlpackage.program import Operation, Program

# Our GroupNorms are an `instance_norm` over groups and, behind a reshape, a `batch_norm` that only scales and shifts.
NORMS = ("layer_norm", "instance_norm", "batch_norm")
CHANNELS = (1,)
# What takes a mask: added to the scores, or an operand of the attention that adds it itself.
ADDING = ("add", "scaled_dot_product_attention")
# torch's `gelu` without an approximation, which is what all of our networks have.
EXACT = "EXACT"


def attribute_faults(program: Program, network: nn.Module) -> list[str]:
    """Every number of a norm or an attention that isn't its module's, in words; none is what ought to be.

    network: the reference of `program`, its weights may be of any kind. Stored numbers are the module's rounded to the
    type that holds them, to the bit.
    """
    graph = Graph(program)
    modules = dict(network.named_modules())
    norms = {position: modules[name] for position, name in weight_owners(program, network).items()}
    attentions = {constant_name(name): module for name, module in modules.items() if isinstance(module, Attention)}
    faults = list(_mask_faults(program, network))
    for operation in program.operations:
        if operation.kind in NORMS:
            faults += _norm_faults(graph, operation, _module_of(graph, operation, norms), network)
        elif operation.kind == "gelu" and graph.attribute(operation, "mode", EXACT) != EXACT:
            faults.append(f"gelu '{operation.name}' is approximated, its module's is exact")
        elif operation.kind == "mul":
            owner = origin(operation.name, attentions)
            if owner is not None:
                faults += _scale_faults(graph, operation, attentions[owner])
    return faults


def _module_of(graph: Graph, operation: Operation, owners: dict[int, Any]) -> Any | None:
    """The normalisation module of an operation: its own weight's, or that of the `batch_norm` it was split from."""
    while operation.position not in owners:
        readers = graph.readers_of(operation)
        if len(readers) != 1 or readers[0].kind not in ("reshape", "batch_norm"):
            return None
        operation = readers[0]
    return owners[operation.position]


def _norm_faults(graph: Graph, operation: Operation, module: Any | None, network: nn.Module) -> Iterator[str]:
    place = f"{operation.kind} '{operation.name}'"
    found = graph.constant(operation, "epsilon")
    if operation.kind == "batch_norm":
        expected = {0.0}
        for argument, value in (("mean", 0.0), ("variance", 1.0)):
            constant = graph.constant(operation, argument)
            if constant is not None and not (np.asarray(constant.load()) == value).all():
                yield f"{place} has a {argument} other than {value:g}"
    elif module is not None:
        expected = {float(module.eps)}
    else:
        # Of a module that can't be told: one of the network's.
        expected = {float(eps) for one in network.modules() if (eps := getattr(one, "eps", None)) is not None}
    if operation.kind == "layer_norm":
        axes = graph.integers(operation, "axes")
        if axes != CHANNELS:
            yield f"{place} normalises over the axes {axes}, its module over {CHANNELS}"
    if found is None:
        return
    stored = np.asarray(found.load())
    if not any(stored == _held(value, stored) for value in expected):
        wanted = " or ".join(f"{value:g}" for value in sorted(expected))
        yield f"{place} has the epsilon {float(stored):.3g}, its module {wanted}"


def _scale_faults(graph: Graph, operation: Operation, module: Attention) -> Iterator[str]:
    """An attention's scores are scaled by the root of a head's width, in the queries or in the scores."""
    head = module.to_q.out_channels // module.heads
    for argument in ("x", "y"):
        constant = graph.constant(operation, argument)
        if constant is None or constant.type.elements != 1 or not constant.type.is_float:
            continue
        stored = np.asarray(constant.load()).reshape(())
        if stored != _held(head**-0.5, stored):
            place = f"{operation.kind} '{operation.name}'"
            yield f"{place} scales by {float(stored):.4g}, its attention by {head**-0.5:.4g}"


def _mask_faults(program: Program, network: nn.Module) -> Iterator[str]:
    """What is added to attention's scores, place by place: an opened place may be one that no prompt looks at."""
    for name, expected in network.named_buffers():
        if not name.endswith("mask"):
            continue
        size = expected.numel()
        masks = [mask.cpu().numpy().reshape(-1) for mask in (expected, expected.transpose(-1, -2))]
        constants = {item for one in program.operations if one.kind in ADDING for item in one.reads()}
        for item in sorted(constants & set(program.constants)):
            constant = program.constants[item]
            if constant.type.elements != size or not constant.type.is_float:
                continue
            stored = np.asarray(constant.load()).reshape(-1)
            # By query and key, or by key and query.
            if not any((stored == mask.astype(stored.dtype)).all() for mask in masks):
                places = min(int((stored != mask.astype(stored.dtype)).sum()) for mask in masks)
                yield f"mask '{item}' differs from its module's in {places} of {size} places"


def _held(value: float, stored: np.ndarray) -> np.ndarray:
    """A number as the type of a stored one holds it."""
    return np.asarray(value).astype(stored.dtype)
