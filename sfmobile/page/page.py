"""The page of a bundle: one HTML file with everything in it, for a screen of any width and for paper."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

from sfmobile.bench.report import Agreement, BenchReport
from sfmobile.files import make_folder, write_text
from sfmobile.inspect.estimate.times import DeviceTime
from sfmobile.inspect.lint.linter import groups
from sfmobile.inspect.lint.rule import rule_book
from sfmobile.page.charts import Bar, stacked_bars, step_lines
from sfmobile.page.content import PageContent, Run, StoredWeight

TEMPLATE_FILE = Path(__file__).with_name("page.html")
# Weights of fewer values than this (biases, norms) are summed up in one row per package.
SMALL_WEIGHT = 2048


def render(content: PageContent) -> str:
    """The page as HTML."""
    manifest = content.manifest
    body = "\n".join(
        (
            _head(content),
            _pictures(content),
            _agreement(content.runs),
            _estimates(content.times),
            _measurements(content.benches),
            _sizes(content),
            _findings(content),
            _versions(content),
        )
    )
    template = Template(TEMPLATE_FILE.read_text(encoding="utf-8"))
    return template.substitute(title=escape(f"{manifest.name}: bundle report"), body=body)


def write_page(content: PageContent, path: Path) -> None:
    """Write the page whole or not at all, making its folder if need be. Raises as `files.atomic_write` does."""
    make_folder(path.parent)
    write_text(path, render(content))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", text: Sequence[int] = ()) -> str:
    """A table of cells that are HTML already; columns in `text` are left-aligned, like the first.

    One with such columns is stacked on a phone: a row becomes a paragraph, each cell behind its column's name.
    """
    kinds = [' class="text"' if index in text else "" for index in range(len(columns))]
    names = [f' data-name="{escape(column)}"' if text and column else "" for column in columns]
    head = "".join(f"<th{kind}>{escape(column)}</th>" for kind, column in zip(kinds, columns, strict=True))
    head = f"<thead><tr>{head}</tr></thead>" if any(columns) else ""
    body = "".join(
        "<tr>"
        + "".join(f"<td{kind}{name}>{cell}</td>" for kind, name, cell in zip(kinds, names, row, strict=True))
        + "</tr>"
        for row in rows
    )
    note = f'<p class="faint">{escape(caption)}</p>' if caption else ""
    classes = "scroll stack" if text else "scroll"
    return f'<div class="{classes}"><table>{head}<tbody>{body}</tbody></table></div>{note}'


def _head(content: PageContent) -> str:
    manifest = content.manifest
    latents = manifest.latents
    side = latents.pixels_per_latent
    size = f"{latents.width * side} x {latents.height * side} pixels"
    parameters = sum(record.parameters for record in manifest.components.values())
    total = sum(record.bytes for record in manifest.components.values())
    return (
        f"<h1>{escape(manifest.name)}</h1>"
        f'<p class="faint">Bundle for {escape(manifest.target)}, {size}, {parameters / 1e6:,.1f} million parameters, '
        f"{total / 1e6:,.1f} MB. Page of {content.created_at:%Y-%m-%d %H:%M} UTC, made on "
        f"{escape(content.machine)}.</p>"
    )


def _pictures(content: PageContent) -> str:
    golden = content.manifest.golden
    if content.reference is None or golden is None:
        return "<h2>Pictures</h2><p>The bundle holds no golden run to compare pictures with.</p>"
    figures = [_figure(content.reference, "reference", "the torch network, fp32")]
    for run in content.runs:
        compared = "" if run.picture_agreement is None else f", {run.picture_agreement} to the reference"
        if run.picture is None:
            figures.append(
                f'<figure><div class="absent">{escape(run.failure)}</div>'
                f"<figcaption><b>{escape(run.label)}</b></figcaption></figure>"
            )
        else:
            figures.append(_figure(run.picture, run.label, f"{run.runtime}{compared}"))
    return (
        f'<h2>Pictures</h2><div class="pictures">{"".join(figures)}</div>'
        f'<p class="faint">“{escape(golden.prompt)}”, seed {golden.seed}, {golden.steps} steps, guidance '
        f"{golden.guidance_scale:g}. PSNR over 8-bit pixels.</p>"
    )


def _figure(png: bytes, label: str, caption: str) -> str:
    data = base64.b64encode(png).decode()
    return (
        f'<figure><img alt="{escape(label)}" src="data:image/png;base64,{data}">'
        f"<figcaption><b>{escape(label)}</b><br>{escape(caption)}</figcaption></figure>"
    )


def _agreement(runs: Sequence[Run]) -> str:
    if not runs:
        return "<h2>Agreement with the reference</h2><p>Not measured for this page.</p>"
    names = list(dict.fromkeys(name for run in runs for name in run.components))
    rows = [
        [escape(run.label), *(_decibels(run.components.get(name)) for name in names), _decibels(run.picture_agreement)]
        for run in runs
    ]
    lines = [(run.label, [one.psnr_db for one in run.steps]) for run in runs]
    return (
        "<h2>Agreement with the reference</h2>"
        + table(
            ("weights", *names, "picture"),
            rows,
            "PSNR against the torch network in fp32, each component fed the reference's own inputs; "
            f"{runs[0].runtime}.",
        )
        + "<p>PSNR of the latents behind every step, where errors add up:</p>"
        + step_lines(lines, "dB")
    )


def _decibels(found: Agreement | None) -> str:
    return "-" if found is None else escape(str(found))


def _estimates(times: DeviceTime | None) -> str:
    if times is None:
        return ""
    budget = times.budget_ms
    bars = [
        Bar(
            f"{one.component}, {one.calls} x {one.call_ms:.2f} ms",
            tuple((block.block, block.milliseconds * one.calls) for block in one.blocks),
        )
        for one in times.components
    ]
    rows = [
        (
            escape(one.component),
            str(one.calls),
            f"{one.call_ms:.2f} ms",
            f"{one.picture_ms:.1f} ms",
            f"{one.picture_ms / budget:.1%}",
            escape(one.basis),
        )
        for one in times.components
    ]
    rows.append(("all", "", "", f"{times.picture_ms:.1f} ms", f"{times.picture_ms / budget:.1%}", escape(times.label)))
    sources = "; ".join(dict.fromkeys(f"{one.basis}: {one.source}" for one in times.components))
    verdict = '<span class="good">within</span>' if times.within_budget else '<span class="error">beyond</span>'
    keys = "".join(
        f'<span class="key" style="background:var(--{name})"></span>{label}'
        for name, label in (
            ("resnet", "ResNet"),
            ("attention", "attention"),
            ("resampling", "resampling"),
            ("layer", "text layer"),
            ("other", "other"),
        )
    )
    return (
        f"<h2>Time on {escape(times.device_name)}: {escape(times.label)}</h2>"
        f"<p>{times.picture_ms:.1f} ms a picture, {verdict} the budget of {budget / 1e3:g} s.</p>"
        + stacked_bars(bars, budget, "ms", f"budget {budget / 1e3:g} s")
        + f'<p class="faint">{keys}</p>'
        + table(
            ("component", "calls", "a call", "a picture", "of budget", "basis"),
            rows,
            f"{sources}. Rate of the {times.chip}: {times.rate_basis}.",
        )
    )


def _measurements(reports: Sequence[BenchReport]) -> str:
    if not reports:
        return (
            "<h2>Measured latency</h2><p>No measurement in the bundle; <code>sfmobile bench</code> or the iOS harness "
            "makes one.</p>"
        )
    parts = ["<h2>Measured latency</h2>"]
    for report in reports:
        machine = report.machine
        load = report.conditions.load_average_before
        rows = [
            (
                escape(name),
                f"{one.cold_load_ms:.0f} ms",
                f"{one.first_prediction_ms:.1f} ms",
                f"{one.median_ms:.2f} ms",
                f"{one.p95_ms:.2f} ms",
                "-" if one.memory is None else f"{one.memory.peak_bytes / 1e6:.0f} MB",
            )
            for name, one in report.components.items()
        ]
        where = f"{machine.model or machine.processor}, {machine.os}" + ("" if load is None else f", load {load:.1f}")
        parts.append(
            table(
                ("component", "cold load", "first", "median", "p95", "peak memory"),
                rows,
                f"{report.runtime.description} ({report.runtime.label}) on {where}, {report.created_at:%Y-%m-%d}.",
            )
        )
        if report.loop is not None:
            parts.append(
                f"<p>Text to picture in {report.loop.steps} steps: {report.loop.end_to_end_ms:.0f} ms end to end.</p>"
            )
    return "".join(parts)


def _sizes(content: PageContent) -> str:
    parts = ["<h2>Bits and sizes</h2>"]
    packages: dict[str, list[StoredWeight]] = {}
    for one in content.weights:
        packages.setdefault(one.package, []).append(one)
    rows = []
    for package, stored in packages.items():
        values, total = sum(one.weight.values for one in stored), sum(one.weight.bytes for one in stored)
        packed = sum(one.weight.values for one in stored if one.weight.compressed)
        rows.append(
            (
                escape(package),
                f"{values:,}",
                f"{packed / max(values, 1):.1%}",
                f"{total / 1e6:,.2f} MB",
                f"{total * 8 / max(values, 1):.2f}",
            )
        )
    parts.append(table(("package", "weights", "palettized", "stored", "bits per weight"), rows))
    for package, stored in packages.items():
        parts.append(f"<details><summary>Every layer of {escape(package)}</summary>{_layers(stored)}</details>")
    return "".join(parts)


def _layers(stored: Sequence[StoredWeight]) -> str:
    large = [one for one in stored if one.weight.values >= SMALL_WEIGHT]
    small = [one for one in stored if one.weight.values < SMALL_WEIGHT]
    rows = [
        (
            f"<code>{escape(one.weight.name)}</code>",
            escape(one.block),
            " x ".join(map(str, one.weight.shape)),
            f"{one.weight.bits:g}",
            f"{one.weight.bytes / 1e3:,.1f} kB",
        )
        for one in large
    ]
    values, total = sum(one.weight.values for one in small), sum(one.weight.bytes for one in small)
    bits = f"{total * 8 / values:.1f}" if values else "-"
    rows.append((f"{len(small)} smaller ones", "", f"{values:,} values", bits, f"{total / 1e3:,.1f} kB"))
    return table(("weight", "block", "shape", "bits", "stored"), rows, text=(1,))


def _findings(content: PageContent) -> str:
    found = groups(content.findings)
    book = rule_book()
    still_open = [group for group in found if group.exception is None]
    accepted = [group for group in found if group.exception is not None]
    parts = ["<h2>Neural Engine lint</h2>"]
    if not still_open:
        parts.append(f'<p class="good">No findings{" beyond the exceptions below" if accepted else ""}.</p>')
    else:
        parts.append(
            table(
                ("severity", "rule", "package", "count", "first", "remedy"),
                [
                    (
                        f'<span class="badge {group.severity}">{group.severity}</span>',
                        escape(group.rule),
                        escape(group.package),
                        str(group.count),
                        escape(f"{group.example.block}: {group.example.message}"),
                        escape(book.rule(group.rule).remedy),
                    )
                    for group in still_open
                ],
                text=(1, 2, 4, 5),
            )
        )
    if accepted:
        rows = [
            (escape(group.rule), escape(group.package), str(group.count), escape(group.exception or ""))
            for group in accepted
        ]
        parts.append("<p>Accepted, with the reason:</p>")
        parts.append(table(("rule", "package", "count", "reason"), rows, text=(1, 3)))
    return "".join(parts)


def _versions(content: PageContent) -> str:
    manifest = content.manifest
    files = [
        (f"<code>{escape(path)}</code>", f"{file.bytes:,}", f"<code>{file.sha256}</code>")
        for record in manifest.components.values()
        for path, file in record.files.items()
    ]
    facts = [
        ("manifest", f"<code>{content.manifest_sha256}</code>"),
        ("checkpoint", f"{escape(manifest.source.id)} <code>{manifest.source.sha256}</code>"),
        ("licence", escape(manifest.source.licence or "not stated")),
        ("attention", escape(", ".join(dict.fromkeys(one.attention for one in manifest.components.values())))),
        ("exported with", escape(", ".join(f"{name} {version}" for name, version in manifest.tools.items()))),
        ("page made with", escape(", ".join(f"{name} {version}" for name, version in content.tools.items()))),
    ]
    return (
        "<h2>Versions and checksums</h2>"
        + table(("", ""), facts, text=(0, 1))
        + f"<details><summary>Every file</summary>{table(('file', 'bytes', 'SHA-256'), files, text=(2,))}</details>"
    )
