from __future__ import annotations

import json
from email.message import Message
from importlib import metadata

import pytest

from sfmobile.cli.main import explain
from tests.cli.run import run

# As a built package has it: what one extra takes from another is written out.
DECLARED = {
    "": ["rich>=1"],
    "all": ["onnx>=1", "torch>=2", "nowhere-to-be-found>=1", "pillow>=10"],
    "onnx": ["onnx>=1", "torch>=2"],
    "torch": ["torch>=2", "nowhere-to-be-found>=1", "pillow>=10"],
}


@pytest.fixture(autouse=True)
def declared(monkeypatch: pytest.MonkeyPatch) -> None:
    message = Message()
    for extra in filter(None, DECLARED):
        message["Provides-Extra"] = extra
    lines = [f"{line}; extra == '{extra}'" if extra else line for extra, wanted in DECLARED.items() for line in wanted]
    real = metadata.requires
    monkeypatch.setattr(metadata, "requires", lambda name: lines if name == "sfmobile" else real(name))
    monkeypatch.setattr(metadata, "metadata", lambda _: message)


def missing(module: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named {module!r}", name=module)


@pytest.mark.parametrize(
    ("module", "distribution", "what"),
    [
        ("rich.table", "rich", "sfmobile"),
        ("nowhere_to_be_found", "nowhere-to-be-found", "sfmobile[torch]"),
        ("onnx", "onnx", "sfmobile[onnx]"),
        ("PIL", "pillow", "sfmobile[torch]"),
    ],
)
def test_a_declared_package_that_is_missing_is_the_environments_fault(
    module: str, distribution: str, what: str
) -> None:
    sentence = f"This needs {distribution}, which isn't installed; run pip install '{what}'."
    assert explain(missing(module)) == (sentence, 3)


def test_a_module_that_nobody_declared_is_a_mistake_of_ours() -> None:
    sentence, code = explain(missing("sfmobile.export.nothing"))
    assert code == 70 and "a mistake in sfmobile" in sentence


def test_an_extra_that_is_left_out_is_no_fault_and_the_doctor_says_how_to_get_it(capsys) -> None:
    outcome = run(capsys, "doctor", "--json")
    assert outcome.code == 0
    said = json.loads(outcome.out)
    assert {row["name"]: row["problem"] for row in said["packages"]}["nowhere-to-be-found"] == "not installed"
    (export,) = (row for row in said["capabilities"] if row["name"] == "export to Core ML")
    assert export == {
        "name": "export to Core ML",
        "available": False,
        "detail": "needs nowhere-to-be-found: pip install 'sfmobile[torch]'",
    }


def test_an_extra_that_is_installed_and_doesnt_fit_is_a_fault(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(metadata, "requires", lambda _: ["rich>=1", "numpy>=99; extra == 'torch'"])
    outcome = run(capsys, "doctor")
    assert outcome.code == 3 and "numpy (outside >=99)" in outcome.sentence
