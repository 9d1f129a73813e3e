"""Reports out of Xcode's result bundles, with a stand-in for xcresulttool that exports as Xcode 16's does."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sfmobile.bench.report import write_report
from sfmobile.bench.xcresult import read_result
from sfmobile.errors import ArtifactError, UnavailableError
from tests.bench.sample import bench

XCRUN = """#!/bin/sh
[ "$1 $2 $3 $4" = "xcresulttool export attachments --path" ] && [ "$6" = --output-path ] || exit 64
[ -f "$5/broken" ] && { echo "error: not a result bundle" >&2; exit 1; }
cp "$5"/exported/* "$7"/
"""


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an `xcrun` on PATH that exports what is put into a result bundle's folder `exported`."""
    tools = folder / "bin"
    tools.mkdir()
    (tools / "xcrun").write_text(XCRUN)
    (tools / "xcrun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty result bundle."""
    stand_in(tmp_path, monkeypatch)
    (tmp_path / "run.xcresult/exported").mkdir(parents=True)
    return tmp_path / "run.xcresult"


def attach(result: Path, *attachments: tuple[str, str]) -> None:
    """Describe attachments (suggested name, exported file) as xcresulttool does."""
    entries = [{"exportedFileName": file, "suggestedHumanReadableName": name} for name, file in attachments]
    manifest = [{"testIdentifier": "PerformanceTests/testUNet()", "attachments": entries}]
    (result / "exported/manifest.json").write_text(json.dumps(manifest))


def test_a_bare_report_is_read_as_it_is(tmp_path: Path) -> None:
    report = bench()
    write_report(report, tmp_path / "bench.json")
    assert read_result(tmp_path / "bench.json") == report


def test_the_newest_attached_report_is_taken(result: Path) -> None:
    report = bench()
    older = report.model_copy(update={"created_at": report.created_at.replace(year=2001)})
    write_report(report, result / "exported/1.json")
    write_report(older, result / "exported/2.json")
    (result / "exported/3.txt").write_text("not a report")
    attach(result, ("bench_0_A-1.json", "1.json"), ("bench_0_A-2.json", "2.json"), ("log_0_A.txt", "3.txt"))
    assert read_result(result) == report


def test_of_one_second_the_report_that_holds_most_is_taken(result: Path) -> None:
    """The harness attaches the report behind every piece, and a piece may take less than a second."""
    whole = bench()
    part = whole.model_copy(update={"components": dict(list(whole.components.items())[:1]), "loop": None})
    write_report(whole, result / "exported/1.json")
    write_report(part, result / "exported/2.json")
    for order in (("1.json", "2.json"), ("2.json", "1.json")):
        attach(result, *((f"bench_{number}_A.json", file) for number, file in enumerate(order)))
        assert read_result(result) == whole


def test_a_run_without_a_report_says_which_plan_attaches_one(result: Path) -> None:
    attach(result)
    with pytest.raises(ArtifactError, match="Performance test plan"):
        read_result(result)


def test_a_bundle_that_the_tool_refuses_is_named_with_its_reason(result: Path) -> None:
    (result / "broken").touch()
    with pytest.raises(ArtifactError, match="not a result bundle"):
        read_result(result)


def test_a_description_in_another_form_is_no_crash(result: Path) -> None:
    (result / "exported/manifest.json").write_text('{"attachments": 3}')
    with pytest.raises(ArtifactError, match=r"run\.xcresult' in a form known here at its top: .* import the JSON"):
        read_result(result)


def test_an_attachment_cannot_lead_out_of_the_export(result: Path, tmp_path: Path) -> None:
    write_report(bench(), tmp_path / "outside.json")
    attach(result, ("bench_0_A.json", "../../outside.json"))
    with pytest.raises(ArtifactError, match=r"outside\.json' doesn't exist"):
        read_result(result)


def test_without_xcode_the_mend_is_named(result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UnavailableError, match="xcresulttool"):
        read_result(result)


def test_a_missing_result_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none\.xcresult' doesn't exist"):
        read_result(tmp_path / "none.xcresult")
