from __future__ import annotations

import pytest

from sfmobile.evaluate.report import EvaluationRecord, SamplerFigures
from sfmobile.evaluate.targets import QualityTarget, target_table


def record() -> EvaluationRecord:
    return EvaluationRecord(
        {},
        {},
        [SamplerFigures("student", {}, {"FD": 54.0, "agreement": 0.61}), SamplerFigures("teacher", {}, {"FD": 50.0})],
        {"Decoder pair": {"psnr_lost": 0.8}},
    )


@pytest.mark.parametrize(
    ("target", "value", "verdict"),
    [
        (QualityTarget("close", "FD", "student", "teacher", ratio=True, at_most=1.1), 1.08, "reached"),
        (QualityTarget("closer", "FD", "student", "teacher", ratio=True, at_most=1.05), 1.08, "missed"),
        (QualityTarget("apart", "FD", "student", "teacher", at_most=4.5), 4.0, "reached"),
        (QualityTarget("agrees", "agreement", "student", at_least=0.6), 0.61, "reached"),
        (QualityTarget("agrees well", "agreement", "student", at_least=0.7, at_most=1.0), 0.61, "missed"),
        (QualityTarget("decoder", "psnr_lost", "Decoder pair", at_most=1.0), 0.8, "reached"),
        (QualityTarget("teacher agrees", "agreement", "student", "teacher", at_least=0.0), None, "not measured"),
        (QualityTarget("absent", "FD", "nobody", at_most=1.0), None, "not measured"),
    ],
    ids=lambda value: value.claim if isinstance(value, QualityTarget) else "",
)
def test_a_figure_is_held_against_its_bounds(target: QualityTarget, value: float | None, verdict: str) -> None:
    assert target.value(record()) == (None if value is None else pytest.approx(value))
    assert target.verdict(record()) == verdict


def test_the_table_shows_what_was_compared_and_how_it_came_out() -> None:
    target = QualityTarget("no more than 10 % worse", "FD", "student", "teacher", ratio=True, at_most=1.1)
    row = target_table([target], record()).splitlines()[-1]
    assert row == "| no more than 10 % worse | FD: student / teacher | ≤ 1.1 | 1.080 | reached |"
    assert target_table([], record()) == ""
