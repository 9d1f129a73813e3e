"""The page of a bundle: one HTML file with everything in it, for a screen of any width and for paper."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from sfmobile.bench.verify_report import Agreement
from sfmobile.files import make_folder, write_text
from sfmobile.inspect.estimate.times import DeviceTime
from sfmobile.inspect.lint.linter import groups
from sfmobile.inspect.lint.rule import rule_book
from sfmobile.page.charts import Bar, bar_chart, line_chart
from sfmobile.page.content import PageContent
from sfmobile.page.weights import by_package
from sfmobile.tables import in_seconds

PAGE, SCRIPT = "page.html", "print.js"
# What HTML doesn't allow in a text, or what turns the direction of the text behind it: controls other than white space,
# halves of surrogate pairs, embeddings and isolates of bidirectional text, noncharacters.
INVISIBLE = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def render(content: PageContent) -> str:
    """The page as HTML. Whatever `content` says is text: markup in it is shown, not followed."""
    environment = _environment()
    found = groups(content.findings)
    times = content.times
    return environment.get_template(PAGE).render(
        page=content,
        manifest=content.manifest,
        script_hash=_hash(environment.get_template(SCRIPT).render()),
        compared=list(dict.fromkeys(name for run in content.runs for name in run.components)),
        step_chart=line_chart([(run.label, [one.psnr_db for one in run.steps]) for run in content.runs]),
        times=times,
        time_chart=None if times is None else bar_chart(_time_bars(times), times.budget_ms),
        time_sources=[] if times is None else _time_sources(times),
        packages=by_package(content.weights),
        findings=[group for group in found if group.exception is None],
        accepted=[group for group in found if group.exception is not None],
        rules=rule_book(),
    )


def write_page(text: str, path: Path) -> None:
    """Write a page whole or not at all, making its folder if need be. Raises as `files.atomic_write` does."""
    make_folder(path.parent)
    write_text(path, text)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sfmobile.page"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        base64=lambda content: base64.b64encode(content).decode(),
        decibels=_decibels,
        seconds=in_seconds,
        short=_short,
        spec=format,
    )
    return environment


def _visible(value: Any) -> Any:
    """A value that a template shows; `INVISIBLE` characters of a text become replacement characters."""
    return INVISIBLE.sub("\ufffd", value) if type(value) is str else value


def _hash(script: str) -> str:
    """By which the page's security policy knows the page's own script, so that no other one runs."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _decibels(found: Agreement | None) -> str:
    return "-" if found is None else str(found)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _time_bars(times: DeviceTime) -> list[Bar]:
    """A bar a component: its blocks, as long as all its calls for one picture take."""
    return [
        Bar(
            f"{one.component}, {one.calls} x {one.call_ms:.2f} ms",
            tuple((block.block, block.milliseconds * one.calls) for block in one.blocks),
        )
        for one in times.components
    ]


def _time_sources(times: DeviceTime) -> list[str]:
    return list(dict.fromkeys(f"{one.basis}: {one.source}" for one in times.components))
