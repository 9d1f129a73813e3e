"""Severities of findings, as names. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal, get_args

Severity = Literal["note", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)

# From which severity on a finding fails a check.
FailOn = Literal["never", "note", "warning", "error"]
