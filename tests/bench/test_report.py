from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from sfmobile.bench.report import (
    SCHEMA_FILES,
    BenchReport,
    read_report,
    report_kind,
    report_schema,
    write_report,
)
from sfmobile.bench.verify_report import VerifyReport
from sfmobile.errors import ArtifactError
from tests.bench.sample import bench, verify


@pytest.mark.parametrize("kind", [BenchReport, VerifyReport])
def test_the_committed_schema_is_current(kind: type[BenchReport] | type[VerifyReport]) -> None:
    assert SCHEMA_FILES[kind].read_text(encoding="utf-8") == report_schema(kind), (
        "run `python -m sfmobile.bench.report` and commit the schema files"
    )


@pytest.mark.parametrize("report", [bench(), bench(loop=None), verify()])
def test_a_written_report_satisfies_the_schema_and_reads_back_equal(
    report: BenchReport | VerifyReport, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "report.json"
    write_report(report, path)
    written = json.loads(path.read_text(encoding="utf-8"))
    Draft202012Validator(json.loads(report_schema(type(report)))).validate(written)
    assert report_kind(path) == report.kind
    assert read_report(path, type(report)) == report
    assert [file.name for file in path.parent.iterdir()] == ["report.json"]


def test_the_schema_refuses_unknown_keys_and_missing_names() -> None:
    validator = Draft202012Validator(json.loads(report_schema(BenchReport)))
    good = bench().model_dump(mode="json")
    assert validator.is_valid(good)
    assert not validator.is_valid(good | {"speed": 1})
    assert not validator.is_valid({key: value for key, value in good.items() if key != "machine"})
    good["components"]["unet"] = 1
    assert not validator.is_valid(good)


def test_a_report_of_before_the_newer_fields_is_read() -> None:
    data = json.loads(bench().model_dump_json())
    del data["crashed"]
    for field in ("increased_memory_entitlement", "waited_for_nominal_s"):
        del data["conditions"][field]
    for component in data["components"].values():
        for field in ("compile_ms", "first_load_ms", "first_load_kind", "buffers", "cpu_only_median_ms"):
            del component[field]
    assert BenchReport.model_validate(data) == bench()


def test_what_only_the_phone_knows_may_be_left_out() -> None:
    written = bench().model_dump(mode="json", exclude_none=True)
    assert BenchReport.model_validate(written) == bench(created_at=BenchReport.model_validate(written).created_at)
    assert "thermal_state_before" not in written["conditions"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "doesn't exist"),
        (b"\x89PNG", "is not UTF-8 text .byte 0.: expected a report"),
        (b"{", "is not JSON"),
        (b"[1]", "it should be an object, found a list; write one"),
        (b'{"kind": "manifest"}', "found 'manifest'"),
        (b'{"kind": "bench", "schema_version": 99}', "schema_version 99 but this sfmobile reads 1; upgrade"),
        (b'{"kind": "bench", "schema_version": 1}', "is not a bench report at created_at: it is missing"),
        (b'{"kind": "verify", "schema_version": 1}', "is not a bench report"),
    ],
)
def test_a_bad_report_is_one_sentence_naming_the_file(content: bytes | None, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=sentence) as error:
        read_report(path, BenchReport)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
