from __future__ import annotations

import importlib.util
import json
import platform
from importlib import metadata
from pathlib import Path

import pytest

from sfmobile.cli import doctor
from tests.cli.run import run


def test_json_is_alone_on_stdout_and_says_what_this_machine_is(capsys) -> None:
    outcome = run(capsys, "doctor", "--json")
    assert outcome.code == 0
    said = json.loads(outcome.out)
    assert said["python"] == platform.python_version()
    packages = {package["name"]: package for package in said["packages"]}
    assert packages["torch"]["installed"] == metadata.version("torch") and packages["torch"]["problem"] is None
    capabilities = {capability["name"]: capability["available"] for capability in said["capabilities"]}
    assert capabilities["runtime mil"] is True
    assert capabilities["runtime coreml"] is (platform.system() == "Darwin")
    assert 0 < said["memory_free_bytes"] <= said["machine"]["memory_bytes"]


def test_the_table_names_the_machine_and_the_packages(capsys) -> None:
    outcome = run(capsys, "doctor")
    assert outcome.code == 0 and "coremltools" in outcome.out and "runtime coreml" in outcome.out


def test_a_package_outside_its_range_is_named_with_both_versions(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    real = doctor.check_requirements

    def too_old(extra: str = "") -> list[doctor.Requirement]:
        return [
            doctor.Requirement(row.name, "<2.4,>=1.26", "2.4.1", "outside <2.4,>=1.26") if row.name == "numpy" else row
            for row in real(extra)
        ]

    monkeypatch.setattr(doctor, "check_requirements", too_old)
    outcome = run(capsys, "doctor")
    assert outcome.code == 3 and "numpy (outside <2.4,>=1.26)" in outcome.sentence


def test_a_requirement_that_is_not_installed_or_too_old_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        metadata, "requires", lambda _: ["nowhere-to-be-found>=1", "numpy>=99", "rich>=1", "ruff; extra == 'dev'"]
    )
    problems = {row.name: row.problem for row in doctor.check_requirements()}
    assert problems == {"nowhere-to-be-found": "not installed", "numpy": "outside >=99", "rich": None}


def test_an_extra_that_is_missing_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda _: ["rich>=1", "nowhere-to-be-found; extra == 'train'"])
    assert [row.name for row in doctor.check_requirements("train")] == ["nowhere-to-be-found"]
    capabilities = {row.name: row for row in doctor.find_capabilities()}
    assert not capabilities["train"].available
    assert capabilities["train"].detail == "needs nowhere-to-be-found: pip install 'sfmobile[train]'"
    assert capabilities["runtime onnx"].available
    assert capabilities["runtime coreai"].available == (importlib.util.find_spec("coreai") is not None)


def test_free_disk_is_that_of_the_folder_to_be(tmp_path: Path) -> None:
    assert doctor.free_disk(tmp_path / "not" / "yet") > 0
