from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfmobile.errors import UsageError
from sfmobile.recipes.budget import allocate, climb_dual

Problem = tuple[list[np.ndarray], list[np.ndarray], float]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """A few layers with a few options, and a limit that at least one allocation keeps."""
    layers = draw(st.integers(1, 5))
    numbers = st.integers(0, 40).map(float)
    sizes = [draw(st.integers(1, 4)) for _ in range(layers)]
    costs = [np.array(draw(st.lists(numbers, min_size=n, max_size=n))) for n in sizes]
    usages = [np.array(draw(st.lists(numbers, min_size=n, max_size=n))) for n in sizes]
    least, most = (sum(float(pick(usage)) for usage in usages) for pick in (np.min, np.max))
    return costs, usages, least + draw(st.floats(0, 1)) * (most - least)


def every_allocation(problem: Problem) -> list[tuple[float, float]]:
    costs, usages, _ = problem
    return [
        tuple(sum(float(row[choice]) for row, choice in zip(rows, choices, strict=True)) for rows in (costs, usages))  # type: ignore[misc]
        for choices in itertools.product(*(range(len(cost)) for cost in costs))
    ]


@given(problems())
@settings(max_examples=150, deadline=None)
def test_no_allocation_within_the_limit_costs_less(problem: Problem) -> None:
    costs, usages, limit = problem
    found = allocate(costs, usages, limit)
    best = min(cost for cost, usage in every_allocation(problem) if usage <= limit * (1 + 1e-9))
    assert found.cost == pytest.approx(best, rel=2e-5, abs=1e-9)
    assert found.usage <= limit * (1 + 1e-9)
    assert found.cost == sum(cost[choice] for cost, choice in zip(costs, found.choices, strict=True))


@given(problems())
@settings(max_examples=150, deadline=None)
def test_the_dual_bounds_every_allocation_from_below_and_knows_a_possible_one(problem: Problem) -> None:
    costs, usages, limit = problem
    dual = climb_dual(list(zip(costs, usages, strict=True)), limit)
    possible = [cost for cost, usage in every_allocation(problem) if usage <= limit]
    assert dual.lower <= min(possible) + 1e-9
    assert any(dual.upper == pytest.approx(cost) for cost in possible)


def layers_of_a_large_network(seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Bytes and errors as they are: sizes over decades, errors falling fourfold a bit, sensitivities over many."""
    rng = np.random.default_rng(seed)
    bits = np.array([1, 2, 3, 4, 6, 8, 16])
    weights = np.floor(np.exp(rng.normal(13.5, 1.5, 150)))
    sensitivities = np.exp(rng.normal(0, 2.5, 150))
    sizes = [np.floor(count * bits / 8 + 2.0 ** (bits + 1) * (bits < 16)) for count in weights]
    errors = [count * scale * 4.0**-bits * (bits < 16) for count, scale in zip(weights, sensitivities, strict=True)]
    return sizes, errors


def test_a_large_problem_is_solved_to_within_a_ten_thousandth_of_its_bound() -> None:
    sizes, errors = layers_of_a_large_network(0)
    six_bits = sum(error[4] for error in errors)
    smallest = allocate(sizes, errors, six_bits)
    assert smallest.gap < 1e-4
    assert smallest.usage <= six_bits * (1 + 1e-9)
    assert smallest.cost < sum(size[4] for size in sizes)


def test_both_ways_of_asking_agree() -> None:
    sizes, errors = layers_of_a_large_network(1)
    room = sum(size[3] for size in sizes)
    best = allocate(errors, sizes, room)
    again = allocate(sizes, errors, best.cost)
    assert again.cost <= best.usage * (1 + 1e-4)


def test_a_limit_below_the_least_possible_is_refused_with_both_numbers() -> None:
    with pytest.raises(UsageError, match=r"limit 3 can't be kept: the least possible is 5"):
        allocate([np.array([1.0]), np.array([1.0])], [np.array([2.0]), np.array([3.0])], 3)


@pytest.mark.parametrize("room", [0.0, 1e-38, 1e-9])
def test_next_to_no_room_above_the_least_usage_leaves_only_that(room: float) -> None:
    costs, usages = [np.array([0.0, 5.0]), np.array([3.0, 0.0])], [np.array([0.0, 1.0]), np.array([7.0, 8.0])]
    assert allocate(costs, usages, 7.0 + room).choices == (0, 0)
    assert allocate(costs[:1], usages[:1], room).choices == (0,)


def test_the_solver_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Not on the process's own streams either. The sixteen make HiGHS 1.12, as scipy 1.17 has it, print a line."""
    for seed, bits in itertools.product(range(4), (2, 3, 4, 5)):
        sizes, errors = layers_of_a_large_network(seed)
        allocate(sizes[:90], errors[:90], sum(error[bits] for error in errors[:90]))
    assert capfd.readouterr() == ("", "")
