from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from sfmobile.bundle.directory import Bundle
from sfmobile.errors import ArtifactError
from sfmobile.inspect.lint.linter import Finding, groups, lint, severe
from sfmobile.inspect.lint.rule import SEVERITIES, read_exceptions, rule_book
from sfmobile.inspect.lint.subject import CHECKS, Subject
from sfmobile.inspect.lint.targets import bundle_targets, lint_targets, package_target
from tests.inspect.lint.programs import half
from tests.runtime.mil.programs import make_program


def test_every_rule_has_a_check_a_remedy_and_known_sources() -> None:
    book = rule_book()
    assert {rule.id for rule in book.rules} == set(CHECKS)
    assert len({rule.id for rule in book.rules}) == len(book.rules)
    for rule in book.rules:
        assert set(rule.sources) <= set(book.sources)
        assert rule.severity in SEVERITIES and rule.remedy.endswith(".")


@pytest.mark.parametrize("fixture", ["tiny_bundle", "tiny_palettized_bundle"])
def test_our_own_exports_are_clean_or_excused_with_a_reason(fixture: str, request: pytest.FixtureRequest) -> None:
    bundle: Bundle = request.getfixturevalue(fixture)
    findings = lint_targets(bundle_targets(bundle))
    assert [finding for finding in findings if finding.exception is None] == []
    # The embedding look-up is always there, and accepted for a reason.
    assert any(finding.rule == "cpu-operation" and finding.exception for finding in findings)


def test_without_exceptions_the_same_findings_are_open(tiny_bundle: Bundle) -> None:
    targets = bundle_targets(tiny_bundle, ["text_encoder"])
    (finding,) = lint_targets(targets, exceptions=())
    assert (finding.rule, finding.component, finding.exception) == ("cpu-operation", "text_encoder", None)


def test_a_package_on_its_own_has_no_exceptions(tiny_bundle: Bundle) -> None:
    findings = lint_targets([package_target(tiny_bundle.package("text_encoder"))])
    assert [finding.rule for finding in findings] == ["cpu-operation"]
    assert findings[0].exception is None
    assert findings[0].package == "TextEncoder.mlpackage"


def sample(severity: str = "warning", exception: str | None = None, block: str = "a") -> Finding:
    return Finding.model_validate(
        {
            "rule": "float32", "severity": severity, "component": "unet", "package": "unet", "block": block,
            "operation": "x", "kind": "exp", "position": 3, "message": "words", "exception": exception,
        }
    )  # fmt: skip


def test_findings_fold_by_rule_severity_package_and_reason() -> None:
    found = groups([sample(), sample(block="b"), sample(block="b"), sample("error"), sample(exception="because of it")])
    assert [(group.severity, group.count, group.blocks, group.exception) for group in found] == [
        ("warning", 3, ("a", "b"), None),
        ("error", 1, ("a",), None),
        ("warning", 1, ("a",), "because of it"),
    ]


@pytest.mark.parametrize(
    ("severities", "fail_on", "expected"),
    [
        (("note",), "never", False), (("error",), "never", False),
        (("note",), "warning", False), (("note", "warning"), "warning", True),
        (("warning",), "error", False), (("error",), "error", True), (("note",), "note", True), ((), "note", False),
    ],
)  # fmt: skip
def test_a_gate_fails_at_its_severity_or_worse(severities: tuple[str, ...], fail_on: Any, expected: bool) -> None:
    found = [sample(severity) for severity in severities]
    assert bool(severe(found, fail_on)) is expected


def test_accepted_findings_fail_no_gate() -> None:
    accepted, still_open = sample("error", exception="for a good reason"), sample("note")
    assert severe([accepted, still_open], "note") == [still_open]
    assert severe([], "note") == []


def test_exceptions_of_a_file_apply_where_all_their_conditions_hold(tmp_path: Path) -> None:
    def body(x: Any) -> Any:
        return mb.cos(x=mb.sin(x=x, name="down_blocks_0_resnets_0_sin"), name="mid_block_resnets_0_cos")

    subject = Subject(make_program(body, {"x": half(1, 4, 1, 32)}))
    path = tmp_path / "exceptions.json"

    def open_after(**conditions: Any) -> list[str | None]:
        exception = {"rule": "cpu-operation", "reason": "known and accepted", **conditions}
        path.write_text(json.dumps({"version": 1, "exceptions": [exception]}))
        found = lint(subject, "unet", read_exceptions(path), "split-einsum")
        return [one.kind for one in found if one.exception is None]

    assert open_after() == []
    assert open_after(operation="sin") == ["cos"]
    assert open_after(block=r"down_blocks\.\d+\..*") == ["cos"]
    assert open_after(component="decoder") == ["sin", "cos"]
    assert open_after(attention="original") == ["sin", "cos"]
    assert open_after(width=32) == ["sin", "cos"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON .line 1: .*expected a file of exceptions"),
        ('{"version": 2, "exceptions": []}', "version 2 but this sfmobile reads 1; upgrade"),
        ('{"version": 1, "exceptions": [{"rule": "no-such-rule", "reason": "known and accepted"}]}', "doesn't exist"),
        ('{"version": 1, "exceptions": [{"rule": "float32", "reason": "short"}]}', "reason"),
        ('{"version": 1, "exceptions": [{"rule": "float32", "reason": "known and accepted", "block": "("}]}', "block"),
    ],
)
def test_a_file_that_holds_no_exceptions_is_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "exceptions.json"
    path.write_text(content)
    with pytest.raises(ArtifactError, match=words):
        read_exceptions(path)
    with pytest.raises(ArtifactError, match=r"absent\.json' doesn't exist: expected a file of exceptions"):
        read_exceptions(tmp_path / "absent.json")


def test_exceptions_that_come_with_sfmobile_name_rules_that_exist() -> None:
    known = {rule.id for rule in rule_book().rules}
    assert {exception.rule for exception in read_exceptions()} <= known


def test_a_recipes_16_bit_layers_are_no_finding(tiny_checkpoint: Any, tmp_path: Path) -> None:
    from sfmobile.compress.recipe import Recipe
    from sfmobile.export.exporter import export_bundle
    from sfmobile.export.options import ExportOptions

    recipe = Recipe.model_validate(
        {
            "default": {"bits": 4},
            "components": {"unet": {"layers": {"down_blocks.1.resnets.0.conv1": {"bits": 16}}}},
        }
    )
    options = ExportOptions(recipe=recipe, components=("unet",))
    bundle = export_bundle(tiny_checkpoint, tmp_path / "bundle", options)
    (target,) = bundle_targets(bundle)
    assert "uncompressed-weight" not in {finding.rule for finding in lint_targets([target])}
    forgetful = Subject(target.program, palettized=True)
    (finding,) = [one for one in lint(forgetful, "unet") if one.rule == "uncompressed-weight"]
    assert "down_blocks_1_resnets_0_conv1_weight" in finding.message
    assert np.isfinite(finding.position or 0)
