from __future__ import annotations

import json
from pathlib import Path

import pytest

from sfmobile.bench.report import write_report
from tests.bench.sample import BUNDLE, MACHINE, bench, close_by, verify
from tests.cli.run import run


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    write_report(bench(10.0), tmp_path / "before.json")
    write_report(bench(15.0), tmp_path / "slower.json")
    write_report(bench(10.0, machine=MACHINE.model_copy(update={"model": "Mac15,3"})), tmp_path / "elsewhere.json")
    write_report(verify(), tmp_path / "verify.json")
    write_report(verify(close_by(None, nonfinite=1)), tmp_path / "broken.json")
    return tmp_path


def test_equal_reports_pass(reports: Path, capsys) -> None:
    outcome = run(capsys, "compare", reports / "before.json", reports / "before.json")
    assert outcome.code == 0 and "Passed: nothing is worse; 0 of " in outcome.out and "unet" not in outcome.out
    outcome = run(capsys, "compare", reports / "before.json", reports / "before.json", "--all")
    assert outcome.code == 0 and "unet median_ms" in outcome.out and "REGRESSED" not in outcome.out


def test_a_slower_report_exits_with_1_and_names_the_figures(reports: Path, capsys) -> None:
    outcome = run(capsys, "compare", reports / "before.json", reports / "slower.json")
    assert outcome.code == 1 and "unet median_ms" in outcome.sentence and "+50.0 %" in outcome.out
    assert outcome.out.startswith("FAILED: worse in") and "+0.0 %" not in outcome.out
    assert run(capsys, "compare", reports / "before.json", reports / "slower.json", "--threshold", 60).code == 0


def test_json_is_alone_on_stdout_even_when_the_gate_fails(reports: Path, capsys) -> None:
    outcome = run(capsys, "compare", reports / "verify.json", reports / "broken.json", "--json")
    assert outcome.code == 1
    assert json.loads(outcome.out)["regressed"] == ["mil fp16 unet"]


def test_other_machines_are_refused_unless_asked_for(reports: Path, capsys) -> None:
    outcome = run(capsys, "compare", reports / "before.json", reports / "elsewhere.json")
    assert outcome.code == 2 and "machine Mac14,2 against Mac15,3" in outcome.sentence
    assert run(capsys, "compare", reports / "before.json", reports / "elsewhere.json", "--across").code == 0


def test_reports_of_two_models_are_refused_unless_asked_for(reports: Path, capsys) -> None:
    other = BUNDLE.model_copy(update={"source_id": "someone/other", "source_sha256": "2" * 64})
    write_report(bench(10.0, bundle=other), reports / "other.json")
    outcome = run(capsys, "compare", reports / "before.json", reports / "other.json")
    assert outcome.code == 2 and "model tiny against someone/other" in outcome.sentence
    assert run(capsys, "compare", reports / "before.json", reports / "other.json", "--across").code == 0
    # The same weights from another place, and the same place's weights trained further, are the same model.
    for same in ({"source_id": "elsewhere/tiny"}, {"source_sha256": "2" * 64}):
        write_report(bench(10.0, bundle=BUNDLE.model_copy(update=same)), reports / "same.json")
        assert run(capsys, "compare", reports / "before.json", reports / "same.json").code == 0


def test_a_report_of_a_later_version_says_so(reports: Path, capsys) -> None:
    later = json.loads((reports / "before.json").read_text()) | {"schema_version": 9}
    (reports / "later.json").write_text(json.dumps(later))
    outcome = run(capsys, "compare", reports / "before.json", reports / "later.json")
    assert outcome.code == 4 and "schema_version 9 but this sfmobile reads 1; upgrade" in outcome.sentence


def test_reports_of_two_kinds_have_nothing_in_common(reports: Path, capsys) -> None:
    outcome = run(capsys, "compare", reports / "before.json", reports / "verify.json")
    assert outcome.code == 2 and "bench report" in outcome.sentence and "verify report" in outcome.sentence


def test_a_missing_report_exits_with_4(reports: Path, capsys) -> None:
    outcome = run(capsys, "compare", reports / "before.json", reports / "nothing.json")
    assert outcome.code == 4 and "nothing.json" in outcome.sentence
