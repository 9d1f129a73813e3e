"""Runs all rules over a program and sorts what they find."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sfmobile.files import StrictModel

# Importing them registers their checks.
from sfmobile.inspect.lint import attention, operations, precision, shapes
from sfmobile.inspect.lint.choices import FailOn
from sfmobile.inspect.lint.rule import SEVERITIES, LintException, Severity, rule_book
from sfmobile.inspect.lint.subject import CHECKS, Found, Subject
from sfmobile.inspect.operations.blocks import OUTSIDE

__all__ = ["Finding", "FindingGroup", "attention", "groups", "lint", "operations", "precision", "severe", "shapes"]


class Finding(StrictModel):
    """A breach of a rule at one operation (none: of the program as a whole). `exception` is why it is accepted.

    package: the component, with its number where it is one of several chunks.
    """

    rule: str
    severity: Severity
    component: str
    package: str
    block: str
    operation: str | None
    kind: str | None
    position: int | None
    message: str
    exception: str | None = None


class FindingGroup(StrictModel):
    """Findings of one rule, severity and reason in one package: how many, where, and the first of them."""

    rule: str
    severity: Severity
    component: str
    package: str
    exception: str | None
    count: int
    blocks: tuple[str, ...]
    example: Finding


def lint(
    subject: Subject,
    component: str,
    exceptions: Sequence[LintException] = (),
    attention_form: str = "",
    package: str | None = None,
) -> list[Finding]:
    """All findings of all rules, worst first, in running order. `component` and `package` name the program in them."""
    findings: list[Finding] = []
    for rule in rule_book().rules:
        for found in CHECKS[rule.id](subject, rule):
            block = OUTSIDE if found.operation is None else subject.blocks[found.operation.position]
            findings.append(
                Finding(
                    rule=rule.id,
                    severity=found.severity or rule.severity,
                    component=component,
                    package=package or component,
                    block=block,
                    operation=None if found.operation is None else found.operation.name,
                    kind=None if found.operation is None else found.operation.kind,
                    position=None if found.operation is None else found.operation.position,
                    message=found.message,
                    exception=_reason(exceptions, rule.id, component, block, found, attention_form),
                )
            )
    return sorted(findings, key=lambda finding: -SEVERITIES.index(finding.severity))


def _reason(
    exceptions: Sequence[LintException], rule: str, component: str, block: str, found: Found, attention_form: str
) -> str | None:
    kind = "" if found.operation is None else found.operation.kind
    for exception in exceptions:
        if exception.covers(rule, component, block, kind, attention_form, found.width):
            return exception.reason
    return None


def groups(findings: Iterable[Finding]) -> list[FindingGroup]:
    """Findings folded by rule, severity, package and exception, in the order of the first of each."""
    found: dict[tuple[str, str, str, str | None], list[Finding]] = {}
    for finding in findings:
        found.setdefault((finding.rule, finding.severity, finding.package, finding.exception), []).append(finding)
    return [
        FindingGroup(
            rule=members[0].rule,
            severity=members[0].severity,
            component=members[0].component,
            package=members[0].package,
            exception=members[0].exception,
            count=len(members),
            blocks=tuple(dict.fromkeys(member.block for member in members)),
            example=members[0],
        )
        for members in found.values()
    ]


def severe(findings: Iterable[Finding], fail_on: FailOn) -> list[Finding]:
    """The findings without an exception that are as severe as `fail_on`, or worse."""
    if fail_on == "never":
        return []
    least = SEVERITIES.index(fail_on)
    return [one for one in findings if one.exception is None and SEVERITIES.index(one.severity) >= least]
