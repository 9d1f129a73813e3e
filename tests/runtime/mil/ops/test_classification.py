"""What a classifier says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil.ops.defs.iOS15.control_flow import mil_list

from sfmobile.errors import ArtifactError
from sfmobile.runtime.mil.evaluate import Evaluator
from tests.runtime.mil.programs import make_program


def classes(values: list[Any]) -> Any:
    return mb.const(val=mil_list(values))


def test_classify_names_the_largest_and_gives_every_number() -> None:
    body = lambda x: mb.classify(probabilities=x, classes=classes(["cat", "dog", "owl"]))  # noqa: E731
    evaluator = Evaluator(make_program(body, {"x": np.zeros((1, 3), np.float32)}))
    label, scores = evaluator.values({"x": np.array([[0.25, 0.5, 0.125]])}).values()
    assert label == "dog" and scores == {"cat": 0.25, "dog": 0.5, "owl": 0.125}


def test_classes_may_be_numbers() -> None:
    body = lambda x: mb.classify(probabilities=x, classes=classes([np.int64(7), np.int64(9)]))  # noqa: E731
    evaluator = Evaluator(make_program(body, {"x": np.zeros(2, np.float32)}))
    label, scores = evaluator.values({"x": np.array([1.0, 0.0])}).values()
    assert label == 7 and scores == {7: 1.0, 9: 0.0}


def test_every_class_has_a_number() -> None:
    program = make_program(
        lambda x: mb.classify(probabilities=x, classes=classes(["a", "b"])), {"x": np.zeros(2, np.float32)}
    )
    (operation,) = program.operations
    with pytest.raises(ArtifactError, match="has 1 numbers for 2 classes"):
        program.inputs["x"] = type(program.inputs["x"])("fp32", (1,))
        Evaluator(program).values({"x": np.zeros(1)})
    assert operation.kind == "classify"
