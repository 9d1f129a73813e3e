"""Random numbers: of the distribution asked for, and the same again where a seed is given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from sfmobile.runtime.mil.evaluate import Evaluator
from tests.runtime.mil.programs import make_program

DRAWS = {
    "normal": lambda seed: mb.random_normal(shape=[20000], mean=2.0, stddev=3.0, seed=seed),
    "uniform": lambda seed: mb.random_uniform(shape=[20000], low=-1.0, high=3.0, seed=seed),
    "bernoulli": lambda seed: mb.random_bernoulli(shape=[20000], prob=0.3, seed=seed),
    "categorical": lambda seed: mb.random_categorical(
        x=np.array([[0.1, 0.2, 0.7]], np.float32), mode="probs", size=20000, seed=seed
    ),
}
MOMENTS = {"normal": (2, 3), "uniform": (1, 4 / 12**0.5), "bernoulli": (0.3, 0.21**0.5), "categorical": (1.6, 0.663)}


@pytest.mark.parametrize("kind", list(DRAWS))
def test_random_numbers_have_their_moments_and_their_seed(kind: str) -> None:
    def body(x: Any) -> Any:
        return tuple(mb.identity(x=DRAWS[kind](seed)) for seed in (5, 5, -1, -1))

    program = make_program(body, {"x": np.zeros(1, np.float32)})
    fixed, same, first, second = Evaluator(program)({"x": np.zeros(1, np.float32)}).values()
    mean, deviation = MOMENTS[kind]
    assert abs(fixed.mean() - mean) < 0.1 and abs(fixed.std() - deviation) < 0.1
    assert (fixed == same).all() and (first != second).any()
