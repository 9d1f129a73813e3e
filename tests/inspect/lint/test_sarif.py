from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sfmobile.inspect.lint.linter import Finding
from sfmobile.inspect.lint.rule import rule_book
from sfmobile.inspect.lint.sarif import sarif_log, write_sarif

LEVELS = {"none", "note", "warning", "error"}


def finding(**changes: Any) -> Finding:
    values = {
        "rule": "cpu-operation",
        "severity": "warning",
        "component": "unet",
        "package": "unet 1/2",
        "block": "conv_in",
        "operation": "x_1",
        "kind": "sin",
        "position": 3,
        "message": "sin runs on the CPU",
    }
    return Finding.model_validate({**values, **changes})


@pytest.fixture
def log() -> dict[str, Any]:
    findings = [
        finding(),
        finding(operation="x_2", block="conv_out"),
        finding(rule="infinite-constant", severity="error", operation=None, kind=None, position=None),
        finding(exception="known, and accepted"),
    ]
    return sarif_log(findings, {"unet 1/2": "out/bundle/UNetChunk1.mlpackage"})


def test_the_log_has_what_sarif_2_1_0_requires(log: dict[str, Any]) -> None:
    """The required properties of the OASIS schema, and what they may hold."""
    assert log["version"] == "2.1.0" and log["$schema"].endswith("sarif-schema-2.1.0.json")
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"]
    identifiers = [rule["id"] for rule in driver["rules"]]
    assert len(identifiers) == len(set(identifiers))
    for rule in driver["rules"]:
        assert rule["defaultConfiguration"]["level"] in LEVELS
        assert all(rule[key]["text"] for key in ("shortDescription", "fullDescription", "help"))
    for result in run["results"]:
        assert result["message"]["text"]
        assert result["level"] in LEVELS
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["occurrenceCount"] >= 1
        (location,) = result["locations"]
        physical = location["physicalLocation"]
        assert physical["artifactLocation"]["uri"] == (
            "out/bundle/UNetChunk1.mlpackage/Data/com.apple.CoreML/model.mlmodel"
        )
        assert physical["region"]["startLine"] >= 1
        assert all(logical["name"] for logical in location["logicalLocations"])
        for suppression in result.get("suppressions", []):
            assert suppression["kind"] in ("inSource", "external") and suppression["justification"]


def test_findings_of_a_rule_are_one_result_with_their_count(log: dict[str, Any]) -> None:
    results = log["runs"][0]["results"]
    assert [(one["ruleId"], one["level"], one["occurrenceCount"]) for one in results] == [
        ("cpu-operation", "warning", 2),
        ("infinite-constant", "error", 1),
        ("cpu-operation", "warning", 1),
    ]
    assert "2 times, in conv_in, conv_out" in results[0]["message"]["text"]


def test_accepted_findings_are_suppressed_with_their_reason(log: dict[str, Any]) -> None:
    suppressions = [one.get("suppressions") for one in log["runs"][0]["results"]]
    assert suppressions == [None, None, [{"kind": "external", "justification": "known, and accepted"}]]


def test_fingerprints_outlast_another_export(log: dict[str, Any]) -> None:
    again = sarif_log([finding(operation="y", message="sin elsewhere")], {"unet 1/2": "elsewhere"})
    (result,) = again["runs"][0]["results"]
    assert result["partialFingerprints"] == log["runs"][0]["results"][0]["partialFingerprints"]
    prints = {json.dumps(one["partialFingerprints"]) for one in log["runs"][0]["results"]}
    assert len(prints) == 3


def test_the_file_is_plain_json_and_lists_every_rule(tmp_path: Path) -> None:
    write_sarif([], {}, tmp_path / "log.sarif")
    log = json.loads((tmp_path / "log.sarif").read_text())
    assert log["runs"][0]["results"] == []
    assert [rule["id"] for rule in log["runs"][0]["tool"]["driver"]["rules"]] == [rule.id for rule in rule_book().rules]
