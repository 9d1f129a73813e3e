"""Operations that an input leaves at rest."""

from __future__ import annotations

import numpy as np

from sfmobile.mlpackage.types import TensorType
from sfmobile.runtime.mil.evaluate import OpResult
from sfmobile.verify.reach import Reach


def result(position: int, value: np.ndarray) -> OpResult:
    return OpResult(position, "relu", f"op{position}", f"out{position}", TensorType("fp16", value.shape), value)


def test_what_is_one_value_everywhere_passes_on_nothing() -> None:
    reach = Reach()
    reach.see(result(0, np.zeros((2, 3), np.float32)))
    reach.see(result(1, np.array([1.0, 2.0], np.float32)))
    reach.see(result(2, np.full(4, 7.0, np.float32)))
    # A single number can't vary within one run; of several results one that varies is enough.
    reach.see(result(3, np.array([1.0], np.float32)))
    reach.see(result(4, np.zeros(2, np.float32)))
    reach.see(result(4, np.arange(2, dtype=np.float32)))
    assert reach.operations == 5
    assert reach.unreached() == ["relu 'op0'", "relu 'op2'"]
