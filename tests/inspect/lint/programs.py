"""Small programs that break one rule each, and how they are linted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb

from sfmobile.inspect.lint.linter import Finding, lint
from sfmobile.inspect.lint.subject import Subject
from tests.runtime.mil.programs import make_program

RANDOM = np.random.default_rng(0)


def half(*shape: int) -> np.ndarray:
    return RANDOM.normal(scale=0.1, size=shape).astype(np.float16)


def findings(body: Callable[..., Any], *values: np.ndarray, target: str = "ios16", **known: Any) -> list[Finding]:
    """What the linter says of the one-function program `body`; `known` is what `Subject` takes."""
    inputs = {f"in{index}": value for index, value in enumerate(values)}
    return lint(Subject(make_program(body, inputs, target), **known), "program")


def broken(body: Callable[..., Any], *values: np.ndarray, **known: Any) -> dict[str, int]:
    """How often each rule is broken."""
    counts: dict[str, int] = {}
    for finding in findings(body, *values, **known):
        counts[finding.rule] = counts.get(finding.rule, 0) + 1
    return counts


def conv(x: Any, channels: int, kernel: int = 3, **attributes: Any) -> Any:
    """A convolution of random float16 weights."""
    weight = half(channels, x.shape[1], kernel, kernel)
    return mb.conv(x=x, weight=weight, pad_type=attributes.pop("pad_type", "same"), **attributes)


Magnitudes = Mapping[str, float]
