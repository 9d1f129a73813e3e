from __future__ import annotations

import pytest

from sfmobile.evaluate.report import Measurement, Record
from sfmobile.evaluate.targets import Target, target_table


def record() -> Record:
    return Record(
        {},
        {},
        [Measurement("student", {}, {"FD": 54.0, "agreement": 0.61}), Measurement("teacher", {}, {"FD": 50.0})],
        {"Decoder pair": {"psnr_lost": 0.8}},
    )


@pytest.mark.parametrize(
    ("target", "value", "verdict"),
    [
        (Target("close", "FD", "student", "teacher", ratio=True, at_most=1.1), 1.08, "reached"),
        (Target("closer", "FD", "student", "teacher", ratio=True, at_most=1.05), 1.08, "missed"),
        (Target("apart", "FD", "student", "teacher", at_most=4.5), 4.0, "reached"),
        (Target("agrees", "agreement", "student", at_least=0.6), 0.61, "reached"),
        (Target("agrees well", "agreement", "student", at_least=0.7, at_most=1.0), 0.61, "missed"),
        (Target("decoder", "psnr_lost", "Decoder pair", at_most=1.0), 0.8, "reached"),
        (Target("teacher agrees", "agreement", "student", "teacher", at_least=0.0), None, "not measured"),
        (Target("absent", "FD", "nobody", at_most=1.0), None, "not measured"),
    ],
    ids=lambda value: value.claim if isinstance(value, Target) else "",
)
def test_a_figure_is_held_against_its_bounds(target: Target, value: float | None, verdict: str) -> None:
    assert target.value(record()) == (None if value is None else pytest.approx(value))
    assert target.verdict(record()) == verdict


def test_the_table_shows_what_was_compared_and_how_it_came_out() -> None:
    target = Target("no more than 10 % worse", "FD", "student", "teacher", ratio=True, at_most=1.1)
    row = target_table([target], record()).splitlines()[-1]
    assert row == "| no more than 10 % worse | FD: student / teacher | ≤ 1.1 | 1.080 | reached |"
    assert target_table([], record()) == ""
