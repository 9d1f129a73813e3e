"""Rules and reasoned exceptions, read from the data files beside this one."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from sfmobile.errors import ArtifactError
from sfmobile.files import StrictModel, read_model
from sfmobile.inspect.lint.choices import SEVERITIES as SEVERITIES
from sfmobile.inspect.lint.choices import Severity as Severity

RULES_FILE = Path(__file__).with_name("rules.json")
EXCEPTIONS_FILE = Path(__file__).with_name("exceptions.json")


class Rule(StrictModel):
    """One rule. limits: its numbers. kinds: operations it names. sources: keys of `RuleBook.sources`."""

    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    severity: Severity
    title: str
    remedy: str
    sources: tuple[str, ...] = Field(min_length=1)
    limits: dict[str, float]
    kinds: tuple[str, ...] = ()


class RuleBook(StrictModel):
    """All rules, and where they come from."""

    version: Literal[1]
    sources: dict[str, str]
    rules: tuple[Rule, ...]

    def rule(self, identifier: str) -> Rule:
        """The rule of that id."""
        return next(rule for rule in self.rules if rule.id == identifier)


class LintException(StrictModel):
    """A finding that is known and accepted, with the reason. Every condition given must hold.

    component, block, operation (its kind), attention (the export's form): regular expressions that match the whole.
    width: length of the last axis of the value found.
    """

    rule: str
    reason: str = Field(min_length=10)
    component: str = ".*"
    block: str = ".*"
    operation: str = ".*"
    attention: str = ".*"
    width: int | tuple[int, ...] | None = None

    @field_validator("component", "block", "operation", "attention")
    @classmethod
    def _is_pattern(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"'{pattern}' is no regular expression: {error}") from error
        return pattern

    def covers(self, rule: str, component: str, block: str, operation: str, attention: str, width: int | None) -> bool:
        """Whether a finding is covered."""
        widths = (self.width,) if isinstance(self.width, int) else self.width
        return (
            self.rule == rule
            and (widths is None or width in widths)
            and re.fullmatch(self.component, component) is not None
            and re.fullmatch(self.block, block) is not None
            and re.fullmatch(self.operation, operation) is not None
            and re.fullmatch(self.attention, attention) is not None
        )


class ExceptionList(StrictModel):
    """An exceptions file."""

    version: Literal[1]
    exceptions: tuple[LintException, ...]


@cache
def rule_book() -> RuleBook:
    """The rules this version knows."""
    return read_model(RULES_FILE, RuleBook, "the rules of sfmobile", "install sfmobile again")


def read_exceptions(path: Path = EXCEPTIONS_FILE) -> tuple[LintException, ...]:
    """The exceptions of a file. Raises `ArtifactError` for a file that isn't one, or names an unknown rule."""
    mend = "correct it; the exceptions that come with sfmobile show the form"
    found = read_model(path, ExceptionList, "a file of exceptions", mend, version=1)
    known = {rule.id for rule in rule_book().rules}
    for exception in found.exceptions:
        if exception.rule not in known:
            raise ArtifactError(
                f"'{path}' makes an exception from the rule '{exception.rule}', which doesn't exist; "
                f"expected one of {', '.join(sorted(known))}."
            )
    return found.exceptions
