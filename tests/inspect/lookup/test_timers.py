from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from sfmobile.errors import ArtifactError, UnavailableError, UsageError
from sfmobile.inspect.lookup.timers import (
    BlockTiming,
    CoreMLTimer,
    EstimateTimer,
    MilTimer,
    RecordedTimer,
    RecordedTimings,
    timed_calls,
)
from tests.bench.sample import MACHINE
from tests.runtime.mil.programs import build_program, save_program

X = np.zeros((1, 4, 8, 32), np.float16)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return save_program(build_program(lambda x: mb.relu(x=x), {"x": X}), tmp_path)


def test_the_first_call_is_not_counted_and_preparation_is_not_timed() -> None:
    events: list[str] = []
    timing = timed_calls(lambda: events.append("call"), 3, before=lambda: events.append("before"))
    assert events == ["call", *["before", "call"] * 3]
    assert timing.predictions == 3
    assert timing.minimum_ms is not None and timing.minimum_ms <= timing.milliseconds


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_mil_timer_names_its_evaluation_and_threads(package: Path, precision: Any) -> None:
    timer = MilTimer(precision, 2, MACHINE)
    assert timer.name.startswith(f"mil {precision} (torch ") and "threads" in timer.name
    assert (timer.label, timer.device, timer.machine) == ("measured", None, MACHINE)
    assert timer.time(package, {"x": X}).predictions == 2


def test_the_coreml_timer_predicts_on_its_compute_unit(package: Path) -> None:
    asked: list[object] = []

    class Model:
        def predict(self, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            asked.append(sorted(data))
            return data

    def load(path: Path, unit: str, function: str | None) -> Model:
        asked.append((path, unit, function))
        return Model()

    timer = CoreMLTimer("CPU_AND_NE", 2, MACHINE, loader=load)
    assert timer.time(package, {"x": X}).predictions == 2
    assert asked == [(package, "CPU_AND_NE", None), ["x"], ["x"], ["x"]]
    assert "CPU_AND_NE" in timer.name and "Mac14,2" in timer.name


def test_core_ml_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    with pytest.raises(UnavailableError, match="--timer mil or estimate"):
        CoreMLTimer("CPU_AND_NE", 2, MACHINE)


def test_an_estimate_includes_its_dispatch_and_names_its_device(package: Path) -> None:
    timer = EstimateTimer("iPhone 14 Pro")
    assert (timer.label, timer.device, timer.machine) == ("estimated", "iphone-14-pro", None)
    timing = timer.time(package, {})
    assert timing.milliseconds >= 0.1 and timing.predictions == 0 and timing.minimum_ms is None
    with pytest.raises(UsageError, match="the nearest are"):
        EstimateTimer("iphone-99")


def test_recorded_timings_are_handed_out_by_package_name(package: Path, tmp_path: Path) -> None:
    path = tmp_path / "timings.json"
    timing = BlockTiming(milliseconds=1.5, minimum_ms=1.4, predictions=10)
    recorded = RecordedTimings(runtime="coreml CPU_AND_NE", machine=MACHINE, timings={package.stem: timing})
    path.write_text(recorded.model_dump_json())
    timer = RecordedTimer(path)
    assert (timer.name, timer.machine) == ("coreml CPU_AND_NE", MACHINE)
    assert timer.time(package, {}) == timing
    with pytest.raises(UsageError, match="measure that package"):
        timer.time(tmp_path / "other.mlpackage", {})
    path.write_text("{}")
    with pytest.raises(ArtifactError, match="is not a file of block timings at runtime: it is missing; write kind"):
        RecordedTimer(path)
    with pytest.raises(ArtifactError, match=r"absent\.json' doesn't exist: expected a file of block timings"):
        RecordedTimer(tmp_path / "absent.json")
