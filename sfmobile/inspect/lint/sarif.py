"""Findings as SARIF 2.1.0 (OASIS, Static Analysis Results Interchange Format), which code hosts show."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sfmobile.files import write_json
from sfmobile.inspect.lint.linter import Finding, FindingGroup, groups
from sfmobile.inspect.lint.rule import Rule, RuleBook, rule_book
from sfmobile.mlpackage.package import COREML_FOLDER, DATA_FOLDER, MODEL_FILE
from sfmobile.version import __version__

SCHEMA_URI = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json"
VERSION = "2.1.0"
MODEL_PATH = f"{DATA_FOLDER}/{COREML_FOLDER}/{MODEL_FILE}"
FINGERPRINT = "sfmobileFinding/v1"
MOST_BLOCKS = 5


def sarif_log(findings: Sequence[Finding], uris: Mapping[str, str]) -> dict[str, Any]:
    """One run with one result per rule, package and reason.

    uris: path of each package (by `Finding.package`) relative to the repository. Accepted findings carry a suppression
    with their reason.
    """
    book = rule_book()
    index = {rule.id: number for number, rule in enumerate(book.rules)}
    return {
        "$schema": SCHEMA_URI,
        "version": VERSION,
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "sfmobile inspect",
                        "semanticVersion": __version__,
                        "rules": [_rule(rule, book) for rule in book.rules],
                    }
                },
                "columnKind": "utf16CodeUnits",
                "results": [_result(group, index[group.rule], uris) for group in groups(findings)],
            }
        ],
    }


def _rule(rule: Rule, book: RuleBook) -> dict[str, Any]:
    sources = "; ".join(book.sources[source] for source in rule.sources)
    return {
        "id": rule.id,
        "name": "".join(word.capitalize() for word in rule.id.split("-")),
        "shortDescription": {"text": f"{rule.title}."},
        "fullDescription": {"text": f"{rule.title}. Sources: {sources}."},
        "help": {"text": rule.remedy},
        "defaultConfiguration": {"level": rule.severity},
    }


def _result(group: FindingGroup, rule_index: int, uris: Mapping[str, str]) -> dict[str, Any]:
    shown = ", ".join(group.blocks[:MOST_BLOCKS]) + (", …" if len(group.blocks) > MOST_BLOCKS else "")
    times = "once" if group.count == 1 else f"{group.count} times"
    result: dict[str, Any] = {
        "ruleId": group.rule,
        "ruleIndex": rule_index,
        "level": group.severity,
        "message": {"text": f"{group.package}: {times}, in {shown}. First: {group.example.message}."},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": f"{uris[group.package]}/{MODEL_PATH}"},
                    # A model is no text; hosts want a line nonetheless.
                    "region": {"startLine": 1},
                },
                "logicalLocations": [
                    {
                        "name": group.example.operation or group.package,
                        "fullyQualifiedName": f"{group.package}/{group.example.block}/{group.example.operation or ''}",
                        "kind": "function",
                    }
                ],
            }
        ],
        "partialFingerprints": {FINGERPRINT: _fingerprint(group)},
        "occurrenceCount": group.count,
    }
    if group.exception is not None:
        result["suppressions"] = [{"kind": "external", "justification": group.exception}]
    return result


def _fingerprint(group: FindingGroup) -> str:
    """The same finding in the next export has the same fingerprint: counts and shapes are no part of it."""
    text = "\n".join((group.rule, group.package, group.exception or ""))
    return hashlib.sha256(text.encode()).hexdigest()


def write_sarif(findings: Sequence[Finding], uris: Mapping[str, str], path: Path) -> None:
    """Write the log as JSON, whole or not at all. Raises as `files.atomic_write` does."""
    write_json(path, sarif_log(findings, uris))
