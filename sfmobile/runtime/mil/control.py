"""Control flow: blocks of an operation as calls, loops that end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sfmobile.errors import ArtifactError
from sfmobile.mlpackage.program import CAPTURED, Operand, Operation, Program
from sfmobile.runtime.mil.values import Budget, Value, truth

# A block: values of its own inputs and of what it takes from outside, by name; its results.
Block = Callable[[Sequence[Value], dict[str, Value]], list[Value]]
# Rounds of all loops in one run.
ROUNDS = 100_000
KINDS = ("cond", "while_loop")


def control_operands(program: Program, operation: Operation) -> list[Operand]:
    """What a control-flow operation reads: the condition or the loop's variables, and then what its blocks capture.

    Raises `UnavailableError` for an operation with blocks that isn't control flow, `ArtifactError` for one whose
    arguments and blocks don't fit together.
    """
    if operation.kind not in KINDS:
        raise program.error(operation, "holds nested blocks")
    named = "pred" if operation.kind == "cond" else "loop_vars"
    own = operation.inputs.get(named, ())
    own_inputs = [len(block.inputs) - len(taken(operation, block)) for block in operation.blocks]
    expected = 0 if operation.kind == "cond" else len(own)
    if len(operation.blocks) != 2 or own_inputs != [expected] * 2 or (operation.kind == "cond" and len(own) != 1):
        raise ArtifactError(
            f"{program.package.name}: {operation} has {len(own)} values for {len(operation.blocks)} blocks of "
            f"{own_inputs} inputs."
        )
    return [*own, *captured(program, operation)]


def captured(program: Program, operation: Operation) -> list[str]:
    """Names of the values that the blocks of an operation take from outside, constants aside."""
    items = operation.inputs.get(CAPTURED, ())
    return [item for item in items if isinstance(item, str) and item not in program.constants]


def taken(operation: Operation, block: Program) -> list[str]:
    """The inputs of a block that are taken from outside."""
    outside = operation.inputs.get(CAPTURED, ())
    return [name for name in block.inputs if name in outside]


def run_condition(blocks: Sequence[Block], names: Sequence[str], *values: Value) -> list[Value]:
    """MIL `cond`: the first block if the first value is true, else the second."""
    chosen = blocks[0] if truth(values[0], "condition") else blocks[1]
    return chosen((), dict(zip(names, values[1:], strict=True)))


def run_loop(
    blocks: Sequence[Block], names: Sequence[str], variables: int, budget: Budget, *values: Value
) -> list[Value]:
    """MIL `while_loop`: as long as the first block gives true, the second makes the variables anew."""
    condition, body = blocks
    outside = dict(zip(names, values[variables:], strict=True))
    current = list(values[:variables])
    while truth(condition(current, outside)[0], "condition"):
        budget.take()
        current = body(current, outside)
    return current
