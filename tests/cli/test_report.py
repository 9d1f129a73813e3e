"""`sfmobile report import`: a phone's report in the same tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfmobile.bench.report import BenchReport, ConditionsRecord, PlacementRecord, read_report, write_report
from tests.bench.sample import bench, latency
from tests.bench.test_xcresult import attach, stand_in
from tests.cli.run import run


def phone_report() -> BenchReport:
    placement = PlacementRecord(
        operations=120,
        neural_engine=117,
        gpu=0,
        cpu=3,
        neural_engine_cost=0.99,
        cpu_cost=0.01,
        off_neural_engine={"ios16.gather": 1, "ios16.cast": 2},
    )
    conditions = ConditionsRecord(
        thermal_state_before="nominal", thermal_state_after="serious", low_power_mode=True, memory_warnings=2
    )
    unet = latency(231.0).model_copy(update={"placement": placement})
    return bench(components={"unet": unet}, conditions=conditions)


def test_the_table_shows_figures_placement_and_the_state_of_the_device(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_report(phone_report(), tmp_path / "bench.json")
    outcome = run(capsys, "report", "import", tmp_path / "bench.json")
    assert outcome.code == 0
    assert "231" in outcome.out
    assert "117 of 120" in outcome.out
    assert "99%" in outcome.out
    assert "2 ios16.cast, 1 ios16.gather" in " ".join(outcome.out.split())
    cautions = " ".join(outcome.err.split())
    assert "thermal state nominal before and serious after" in cautions
    assert "low power mode was on" in cautions
    assert "warned 2 times" in cautions


def test_what_is_written_is_what_compare_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_report(phone_report(), tmp_path / "bench.json")
    outcome = run(capsys, "report", "import", tmp_path / "bench.json", "-o", tmp_path / "out.json", "--json")
    assert outcome.code == 0
    assert BenchReport.model_validate_json(outcome.out) == phone_report().model_copy(
        update={"created_at": read_report(tmp_path / "out.json", BenchReport).created_at}
    )
    outcome = run(capsys, "compare", tmp_path / "bench.json", tmp_path / "out.json")
    assert outcome.code == 0


def test_a_slower_phone_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_report(phone_report(), tmp_path / "a.json")
    slower = phone_report().model_copy(update={"components": {"unet": latency(300.0)}})
    write_report(slower, tmp_path / "b.json")
    outcome = run(capsys, "compare", tmp_path / "a.json", tmp_path / "b.json")
    assert outcome.code == 1
    assert "unet" in outcome.sentence


def test_a_file_that_is_no_report_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text('{"kind": "verify"}')
    outcome = run(capsys, "report", "import", tmp_path / "x.json")
    assert outcome.code == 4
    assert "not a bench report" in outcome.sentence


@pytest.fixture
def result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A result bundle with an attached report, and a stand-in for the tool that exports attachments."""
    stand_in(tmp_path, monkeypatch)
    bundle = tmp_path / "run.xcresult"
    (bundle / "exported").mkdir(parents=True)
    write_report(phone_report(), bundle / "exported" / "1.json")
    attach(bundle, ("bench_0_A.json", "1.json"))
    return bundle


@pytest.mark.parametrize("file", ["manifest.json", "1.json"], ids=["the tool's description", "the report"])
def test_json_cut_short_in_a_result_bundle_is_one_sentence(file: str, result: Path, capsys) -> None:
    assert run(capsys, "report", "import", result).code == 0
    path = result / "exported" / file
    path.write_text(path.read_text()[:-20])
    outcome = run(capsys, "report", "import", result)
    assert outcome.code == 4 and "run.xcresult" in outcome.sentence and outcome.out == ""


def test_a_bare_report_cut_short_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_report(phone_report(), tmp_path / "bench.json")
    (tmp_path / "bench.json").write_text((tmp_path / "bench.json").read_text()[:-20])
    outcome = run(capsys, "report", "import", tmp_path / "bench.json")
    assert outcome.code == 4 and "bench.json" in outcome.sentence
