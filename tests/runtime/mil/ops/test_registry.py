"""The op table as a whole."""

from __future__ import annotations

from pathlib import Path

from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

from sfmobile.runtime.mil.ops import OPS as ALL_OPS

# Fused ops, which no package holds, are tested with their fusions.
OPS = {kind: op for kind, op in ALL_OPS.items() if not kind.startswith("fused.")}

# coremltools' own argument lists differ from the reference here: `x` is `input`, or the list is internal.
_ARGUMENTS_CHECKED_ELSEWHERE = {"identity"}


def test_every_op_of_the_table_has_a_test() -> None:
    source = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    untested = {kind for kind in OPS if f"mb.{kind}(" not in source and f'"{kind}"' not in source}
    assert not untested


def test_every_argument_any_opset_takes_is_known() -> None:
    """Whatever coremltools can write for an op of the table, the table's function takes, with the same defaults."""
    for kind, op in OPS.items():
        for implementation in SSAOpRegistry.core_ops[kind].values():
            taken = {name for name in implementation.input_spec.input_types if not name.startswith("_")}
            assert taken <= {*op.tensors, *op.attributes}, f"{kind}: {taken - {*op.tensors, *op.attributes}}"
            optional = {name for name in taken if implementation.input_spec.input_types[name].optional}
            if kind not in _ARGUMENTS_CHECKED_ELSEWHERE:
                assert op.required <= taken - optional | {"bias"}, kind
