"""States: what one call writes, the next one reads."""

from __future__ import annotations

from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

from sfmobile.errors import ArtifactError
from sfmobile.mlpackage.program import load_program
from sfmobile.mlpackage.types import StateType
from sfmobile.runtime.mil.evaluate import Evaluator
from tests.runtime.mil.programs import save_program


def counting_program() -> Any:
    """Adds x to its state by coreml_update_state, which is written as write_state and read_state."""
    specs = [mb.TensorSpec((3,), dtype=types.fp16), mb.StateTensorSpec((3,), dtype=types.fp16)]

    @mb.program(input_specs=specs, opset_version=ct.target.iOS18)
    def program(x: Any, total: Any) -> Any:
        more = mb.add(x=mb.read_state(input=total), y=x)
        return mb.mul(x=mb.coreml_update_state(state=total, value=more), y=np.float16(2))

    return program


def test_a_state_is_kept_between_calls(tmp_path: Any) -> None:
    program = load_program(save_program(counting_program(), tmp_path, "ios18"))
    assert [operation.kind for operation in program.operations].count("write_state") == 1
    assert list(program.states) == ["total"] and list(program.inputs) == ["x"]
    evaluator = Evaluator(program)
    states = evaluator.new_states()
    (first,) = evaluator.values({"x": np.ones(3)}, states).values()
    (second,) = evaluator.values({"x": np.full(3, 4.0)}, states).values()
    np.testing.assert_array_equal(np.asarray(first), [2, 2, 2])
    np.testing.assert_array_equal(np.asarray(second), [10, 10, 10])
    (fresh,) = evaluator({"x": np.ones(3)}).values()
    np.testing.assert_array_equal(fresh, first)  # type: ignore[arg-type]


def test_what_was_written_is_no_view_of_what_is_computed_later(tmp_path: Any) -> None:
    specs = [mb.TensorSpec((3,), dtype=types.fp16), mb.StateTensorSpec((3,), dtype=types.fp16)]

    @mb.program(input_specs=specs, opset_version=ct.target.iOS18)
    def program(x: Any, kept: Any) -> Any:
        doubled = mb.mul(x=x, y=np.float16(2))
        written = mb.coreml_update_state(state=kept, value=doubled)
        return mb.add(x=mb.add(x=written, y=np.float16(1)), y=np.float16(1))

    evaluator = Evaluator(load_program(save_program(program, tmp_path, "ios18")))
    states = evaluator.new_states()
    evaluator.values({"x": np.ones(3)}, states)
    np.testing.assert_array_equal(states["kept"].value.numpy(), [2, 2, 2])


def test_a_state_beyond_all_memory_is_one_sentence(tmp_path: Any) -> None:
    program = load_program(save_program(counting_program(), tmp_path, "ios18"))
    program.states["total"] = StateType("fp16", (2**50,))
    with pytest.raises(ArtifactError, match=r"declares states of 2251799813685248 bytes; expected at most"):
        Evaluator(program).new_states()
