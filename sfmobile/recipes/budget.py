"""The budget problem: one storage for every layer, the least bytes for an error or the least error for bytes.

This is the multiple-choice knapsack problem. It is solved as a mixed-integer linear programme by HiGHS, and its
answer is not taken on trust: the sums are computed again from the choices, and the Lagrangian dual, computed here
without the solver, bounds how much better any answer could be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfmobile.errors import SfmobileError, UsageError

Float = NDArray[np.float64]

# HiGHS stops once it has proved its answer within this share of the optimum, or after so many seconds.
RELATIVE_GAP = 1e-5
SECONDS = 60.0
# A constraint counts as kept within this share; beyond it the limit is lowered and the problem solved again.
FEASIBILITY = 1e-9
MOST_ATTEMPTS = 4
DUAL_STEPS = 200


class SolverError(SfmobileError):
    """The solver gave no answer, or one that its own problem refutes: a mistake in sfmobile or in the solver."""

    exit_code = 3


@dataclass(frozen=True)
class Allocation:
    """choices: per layer, the index of its storage. cost: what was minimised; usage: what was limited.

    bound: no allocation within the limit costs less than this, by the Lagrangian dual. `proven` is the share by which
    the solver's own bound leaves room for a better one.
    """

    choices: tuple[int, ...]
    cost: float
    usage: float
    limit: float
    bound: float
    proven: float

    @property
    def gap(self) -> float:
        """By which share of its cost the allocation may be worse than the best, by the Lagrangian dual."""
        return 0.0 if self.cost <= self.bound else (self.cost - self.bound) / self.cost


def allocate(costs: Sequence[ArrayLike], usages: Sequence[ArrayLike], limit: float) -> Allocation:
    """Choose one option per layer with the least total cost among those whose total usage is at most `limit`.

    costs, usages: one array per layer, an entry per option, not negative. Raises `UsageError` if no allocation keeps
    the limit, `SolverError` if the solver fails.
    """
    layers = [
        (np.asarray(cost, np.float64), np.asarray(usage, np.float64)) for cost, usage in zip(costs, usages, strict=True)
    ]
    least = sum(float(usage.min()) for _, usage in layers)
    if least > limit:
        raise UsageError(f"The limit {limit:.6g} can't be kept: the least possible is {least:.6g}.")
    dual = climb_dual(layers, limit)
    worthwhile = [_worthwhile(cost, usage, dual) for cost, usage in layers]
    lowered = limit
    for _ in range(MOST_ATTEMPTS):
        room = max(lowered - least, 0.0)
        kept = [_possible(keep, usage, room) for keep, (_, usage) in zip(worthwhile, layers, strict=True)]
        options = [(cost[keep], usage[keep]) for (cost, usage), keep in zip(layers, kept, strict=True)]
        positions, proven = _solve(options, lowered, dual.upper)
        choices = tuple(int(keep[position]) for keep, position in zip(kept, positions, strict=True))
        cost, usage = _totals(layers, choices)
        if usage <= limit * (1 + FEASIBILITY):
            return Allocation(choices, cost, usage, limit, dual.lower, proven)
        # The solver keeps constraints to within its tolerance; ask for that much less.
        lowered -= 2 * (usage - limit)
    raise SolverError(
        "The budget solver's answers exceed its limit; use a scipy release this sfmobile was tested with."
    )


@dataclass(frozen=True)
class Dual:
    """lower: a bound of the least cost, reached at `price`. upper: what a feasible allocation costs."""

    price: float
    lower: float
    upper: float


def climb_dual(layers: Sequence[tuple[Float, Float]], limit: float) -> Dual:
    """The Lagrangian dual of the problem: max over prices p >= 0 of sum(min(cost + p usage)) - p limit.

    It is concave in p; its slope is the usage that a price leads to, less `limit`, so it is climbed by bisection.
    Needs a `limit` that can be kept.
    """

    def at(price: float) -> tuple[float, float, float]:
        value, cost, usage = -price * limit, 0.0, 0.0
        for costs, usages in layers:
            total = costs + price * usages
            # Among equals the least usage, so that a price high enough is feasible.
            best = int(np.lexsort((usages, total))[0])
            value += float(total[best])
            cost += float(costs[best])
            usage += float(usages[best])
        return value, cost, usage

    value, cost, usage = at(0.0)
    if usage <= limit:
        return Dual(0.0, value, cost)
    low, high = 0.0, 1.0
    while at(high)[2] > limit:
        low, high = high, high * 16.0
    best = Dual(high, at(high)[0], at(high)[1])
    for _ in range(DUAL_STEPS):
        # Prices span many decades: halve the exponent's range until `low` is known.
        middle = (low * high) ** 0.5 if low > 0 else high / 16.0
        value, cost, usage = at(middle)
        if value > best.lower:
            best = Dual(middle, value, best.upper)
        if usage <= limit:
            high = middle
            best = Dual(best.price, best.lower, min(best.upper, cost))
        else:
            low = middle
        if high <= low * (1 + 1e-12):
            break
    return best


def _worthwhile(cost: Float, usage: Float, dual: Dual) -> NDArray[np.intp]:
    """Options of one layer that a best allocation may hold.

    Any allocation with an option costs at least the dual's bound and, on top, by how much the option's reduced cost
    exceeds the layer's least; beyond what is known to be possible it can't be best.
    """
    reduced = cost + dual.price * usage
    slack = (dual.upper - dual.lower) * (1 + 1e-9) + 1e-9 * abs(dual.upper)
    return np.flatnonzero(reduced - reduced.min() <= slack)


def _possible(keep: NDArray[np.intp], usage: Float, room: float) -> NDArray[np.intp]:
    """Of the options `keep` of one layer, those that don't alone exceed `room` above its least usage.

    Beside little room the others would be coefficients larger than the solver takes.
    """
    fitting = keep[usage[keep] - usage.min() <= room * (1 + FEASIBILITY)]
    return fitting if fitting.size else np.flatnonzero(usage == usage.min())[:1]


def _totals(layers: Sequence[tuple[Float, Float]], choices: Sequence[int]) -> tuple[float, float]:
    """Cost and usage of `choices`."""
    cost = sum(float(costs[choice]) for (costs, _), choice in zip(layers, choices, strict=True))
    usage = sum(float(usages[choice]) for (_, usages), choice in zip(layers, choices, strict=True))
    return cost, usage


def _solve(layers: list[tuple[Float, Float]], limit: float, upper: float) -> tuple[list[int], float]:
    """Positions of the chosen options, and the relative gap that the solver proved. `upper`: some possible cost."""
    import highspy

    sizes = [len(cost) for cost, _ in layers]
    starts = np.cumsum([0, *sizes])
    variables = int(starts[-1])
    # Each layer's least cost and usage are certain; without them, and scaled, the rest is about 1, which the solver's
    # absolute tolerances are made for.
    costs = np.concatenate([cost - cost.min() for cost, _ in layers])
    usages = np.concatenate([usage - usage.min() for _, usage in layers])
    certain = sum(float(cost.min()) for cost, _ in layers)
    room = max(limit - sum(float(usage.min()) for _, usage in layers), 0.0)
    scale = (upper - certain) or 1.0
    problem = highspy.HighsLp()
    problem.num_col_, problem.col_cost_ = variables, costs / scale
    problem.col_lower_, problem.col_upper_ = np.zeros(variables), np.ones(variables)
    problem.integrality_ = [highspy.HighsVarType.kInteger] * variables
    # A row per layer, of which exactly one option is chosen, and one for all usages together.
    problem.num_row_ = len(layers) + 1
    problem.row_lower_ = np.array([*np.ones(len(layers)), -highspy.kHighsInf])
    problem.row_upper_ = np.array([*np.ones(len(layers)), 1.0 if room else 0.0])
    used = np.flatnonzero(usages)
    rows = problem.a_matrix_
    rows.format_ = highspy.MatrixFormat.kRowwise
    rows.start_ = np.array([*starts, variables + len(used)], np.int32)
    rows.index_ = np.concatenate([np.arange(variables), used]).astype(np.int32)
    rows.value_ = np.concatenate([np.ones(variables), usages[used] / (room or 1.0)])
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("mip_rel_gap", RELATIVE_GAP * upper / scale)
    solver.setOptionValue("time_limit", SECONDS)
    solver.passModel(problem)
    solver.run()
    found = solver.getInfo()
    if found.primal_solution_status != int(highspy.SolutionStatus.kSolutionStatusFeasible):
        message = solver.modelStatusToString(solver.getModelStatus())
        raise SolverError(f"The budget solver found nothing ({message}); report it with the recipe's settings.")
    values = np.array(solver.getSolution().col_value)
    chosen = [int(values[start:stop].argmax()) for start, stop in pairwise(starts)]
    return chosen, float(found.mip_gap) * scale / upper if upper else 0.0
