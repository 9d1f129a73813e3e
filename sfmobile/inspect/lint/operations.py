"""Checks of single operations and pairs: CPU fall-backs, convolutions, upsampling, needless moves, storage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sfmobile.inspect.lint.rule import Rule
from sfmobile.inspect.lint.subject import Found, Subject, checks

if TYPE_CHECKING:
    from sfmobile.mlpackage.program import Operation

UPSAMPLING = frozenset(
    {"upsample_nearest_neighbor", "upsample_bilinear", "resize_nearest_neighbor", "resize_bilinear", "resize"}
)
WEIGHTED = frozenset({"conv", "conv_transpose", "linear", "matmul", "gather"})


@checks("cpu-operation")
def cpu_operation(subject: Subject, rule: Rule) -> Iterator[Found]:
    """Operations of the kinds the rule names."""
    for operation in subject.program.operations:
        if operation.kind in rule.kinds:
            yield Found(operation, f"{operation.kind} runs on the CPU")


@checks("convolution-stride")
def convolution_stride(subject: Subject, rule: Rule) -> Iterator[Found]:
    """Strides with other prime factors than 2 and 3; beyond 2 where the kernel is palettized."""
    for operation in subject.program.operations:
        if operation.kind not in ("conv", "conv_transpose"):
            continue
        strides = subject.graph.integers(operation, "strides") or ()
        weight = subject.graph.constant(operation, "weight")
        for stride in strides:
            if not _product_of_2_and_3(stride):
                yield Found(operation, f"stride {stride} isn't a product of 2s and 3s")
                break
            if stride > rule.limits["palettized_stride"] and weight is not None and weight.compressed:
                yield Found(operation, f"stride {stride} with a palettized kernel, at most 2")
                break


def _product_of_2_and_3(number: int) -> bool:
    for factor in (2, 3):
        while number > 1 and number % factor == 0:
            number //= factor
    return number == 1


@checks("kernel-width")
def kernel_width(subject: Subject, rule: Rule) -> Iterator[Found]:
    """Kernels beyond the limit along any axis."""
    for operation in subject.program.operations:
        weight = subject.graph.operand_type(operation, "weight")
        if operation.kind in ("conv", "conv_transpose") and weight is not None:
            widest = max(weight.sizes[2:], default=0)
            if widest > rule.limits["width"]:
                yield Found(operation, f"kernel of width {widest}, at most {rule.limits['width']:g}")


@checks("upsample-factor")
def upsample_factor(subject: Subject, rule: Rule) -> Iterator[Found]:
    """Results larger than the input by more than the limit along a spatial axis."""
    for operation in subject.program.operations:
        x = subject.graph.operand_type(operation, "x")
        if operation.kind not in UPSAMPLING or x is None:
            continue
        out = operation.outputs[0][1]
        factors = [after / before for before, after in zip(x.shape, out.shape, strict=True) if before and after]
        if max(factors, default=1) > rule.limits["factor"]:
            yield Found(operation, f"{x} to {out}, a factor of {max(factors):g}")


@checks("needless-transpose")
def needless_transpose(subject: Subject, rule: Rule) -> Iterator[Found]:
    """Transposes that are the identity, move only axes of length 1, or are read by another transpose alone."""
    for operation in subject.program.operations:
        if operation.kind != "transpose":
            continue
        perm = subject.graph.integers(operation, "perm")
        x = subject.graph.operand_type(operation, "x")
        if perm is None or x is None:
            continue
        perm = tuple(axis % len(perm) for axis in perm)
        if perm == tuple(sorted(perm)):
            yield Found(operation, f"permutes {x} by {list(perm)}, the identity")
        elif [axis for axis in perm if x.shape[axis] != 1] == [axis for axis in range(len(perm)) if x.shape[axis] != 1]:
            yield Found(operation, f"permutes {x} by {list(perm)}: only axes of length 1 move, a reshape would do")
        elif _only_reader(subject, operation) == "transpose":
            yield Found(operation, f"permutes {x} by {list(perm)} for another transpose alone")


@checks("needless-reshape")
def needless_reshape(subject: Subject, rule: Rule) -> Iterator[Found]:
    """Reshapes to the same shape, or read by another reshape alone."""
    for operation in subject.program.operations:
        x = subject.graph.operand_type(operation, "x")
        if operation.kind not in ("reshape", "squeeze", "expand_dims") or x is None:
            continue
        out = operation.outputs[0][1]
        if x.shape == out.shape:
            yield Found(operation, f"reshapes {x} to the same shape")
        elif operation.kind == "reshape" and _only_reader(subject, operation) == "reshape":
            yield Found(operation, f"reshapes {x} to {out} for another reshape alone")


def _only_reader(subject: Subject, operation: Operation) -> str | None:
    """Kind of the one operation that reads the result, if there is just one and nothing else keeps it."""
    readers = subject.graph.readers_of(operation)
    is_output = any(name in subject.program.outputs for name in operation.makes())
    return readers[0].kind if len(readers) == 1 and not is_output else None


@checks("last-axis-move")
def last_axis_move(subject: Subject, rule: Rule) -> Iterator[Found]:
    """Transposes and reshapes of some size after which the last axis is another."""
    for operation in subject.program.operations:
        x = subject.graph.operand_type(operation, "x")
        if operation.kind not in ("transpose", "reshape") or x is None or not x.shape:
            continue
        out = operation.outputs[0][1]
        if not out.is_float or out.bytes < rule.limits["least_bytes"] or not out.shape:
            continue
        perm = subject.graph.integers(operation, "perm") if operation.kind == "transpose" else None
        moved = x.shape[-1] != out.shape[-1] if perm is None else perm[-1] % len(perm) != len(perm) - 1
        if moved:
            yield Found(operation, f"{operation.kind} of {x} to {out}", out.shape[-1])


@checks("uncompressed-weight")
def uncompressed_weight(subject: Subject, rule: Rule) -> Iterator[Found]:
    """Weights of some size in full width, in a package that is said to be palettized."""
    if not subject.palettized:
        return
    seen: set[str] = set()
    for operation in subject.program.operations:
        if operation.kind not in WEIGHTED:
            continue
        for name, constant in subject.graph.weights(operation).items():
            large = constant.type.elements >= rule.limits["least_values"] and len(constant.type.shape) > 1
            if large and not constant.compressed and name not in seen and name not in subject.full_width:
                seen.add(name)
                size = constant.type.bytes
                yield Found(operation, f"weight '{name}', {constant.type}, takes {size / 1e6:.2f} MB uncompressed")
