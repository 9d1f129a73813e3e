"""Choice between tensors."""

from __future__ import annotations

import numpy as np
from coremltools.converters.mil import Builder as mb

from tests.runtime.mil.programs import assert_matches

RANDOM = np.random.default_rng(0)


def test_select_takes_a_where_true_and_broadcasts() -> None:
    cond = RANDOM.random((3, 4)) > 0.5
    a, b = RANDOM.normal(size=(3, 4)).astype(np.float32), RANDOM.normal(size=(3, 4)).astype(np.float32)
    assert_matches(lambda c, x, y: mb.select(cond=c, a=x, b=y), np.where(cond, a, b), cond, a, b)
    fill = np.float32(-3e4)
    assert_matches(lambda c, x: mb.select(cond=c, a=x, b=fill), np.where(cond, a, fill), cond, a)
