"""What the page of a bundle shows, gathered: pictures, agreement, times, weights, findings, versions, checksums."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from sfmobile.bench.machine import describe_machine, tool_versions
from sfmobile.bench.records import RuntimeRecord, now
from sfmobile.bench.report import KINDS, BenchReport, Report, read_report, report_kind
from sfmobile.bench.verify_report import Agreement, VerifyReport
from sfmobile.bundle.digest import digest_file
from sfmobile.bundle.directory import MANIFEST_FILE, Bundle
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.inspect.estimate.devices import device_table
from sfmobile.inspect.estimate.measured import MeasuredTime
from sfmobile.inspect.estimate.phones import fit_verdict
from sfmobile.inspect.estimate.times import DeviceTime, Part, calls_per_picture, device_time
from sfmobile.inspect.lint.linter import Finding
from sfmobile.inspect.lint.targets import LintTarget, bundle_targets, lint_targets
from sfmobile.inspect.operations.op_table import weights_of
from sfmobile.page.weights import StoredWeight
from sfmobile.runtime.choices import Precision
from sfmobile.sampling.picture import Picture, to_pixels
from sfmobile.sampling.vocabulary import vocabulary_of
from sfmobile.verify.gates import Gates
from sfmobile.verify.runs import answer, draws
from sfmobile.verify.verification import compare, evaluation_work, golden_reference

if TYPE_CHECKING:
    from sfmobile.bundle.manifest import Manifest

# What the built-in model draws for a page.
EXAMPLES = ("a penguin, 3d style", "a pizza", "a blue heart on a yellow background")
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Run:
    """The golden run of one bundle on the mil runtime, compared with the reference at every step.

    picture: PNG, or None with `failure` saying why. components: PSNR of each, fed the reference's inputs.
    """

    label: str
    runtime: str
    picture: bytes | None
    failure: str
    picture_agreement: Agreement | None
    components: dict[str, Agreement]
    steps: tuple[Agreement, ...]


@dataclass(frozen=True)
class Shown:
    """What the bundles draw for a prompt beyond the golden one: PNG of each, by its label."""

    prompt: str
    pictures: dict[str, bytes]


@dataclass(frozen=True)
class PageContent:
    """All a page shows. verdict: of the newest verify report of this very bundle, None without one.

    reference: PNG of the golden run in torch fp32; None without golden vectors. shown: further prompts. fit: memory
    beside what phones allow, in a sentence; None of what isn't Core ML packages.
    """

    created_at: datetime
    manifest: Manifest
    manifest_sha256: str
    tools: dict[str, str]
    machine: str
    verdict: VerifyReport | None
    reference: bytes | None
    runs: tuple[Run, ...]
    times: DeviceTime | None
    benches: tuple[BenchReport, ...]
    weights: tuple[StoredWeight, ...]
    findings: tuple[Finding, ...]
    shown: tuple[Shown, ...] = ()
    fit: str | None = None


def gather(
    bundle: Bundle,
    *,
    beside: Sequence[Bundle] = (),
    device: str | None = None,
    budget_ms: float = 2000.0,
    precision: Precision = "fp16",
    run: bool = True,
    prompts: Sequence[str] | None = None,
    advance: Advance = lambda units: None,
) -> PageContent:
    """Everything about `bundle`, with bundles of the same checkpoint `beside` it (say, unpalettized) in the pictures.

    run: execute the golden run of every bundle on the mil runtime; `advance` is told of each step and component.
    prompts: drawn with every bundle too; without any, some that the model is known to draw, if it is.
    Raises `UsageError` for a bundle beside that is of another checkpoint, or an unknown device.
    """
    for other in beside:
        _check_same_source(bundle, other)
    targets = bundle_targets(bundle)
    machine = describe_machine()
    has_golden = has_golden_run(bundle)
    reports = stored_benches(bundle)
    compared = (*beside, bundle) if run and has_golden else ()
    runs = [golden_run(one, precision, advance) for one in compared]
    labelled = told_apart(runs, [one.root.name for one in compared])
    wanted = prompts_of(bundle, prompts) if compared else ()
    return PageContent(
        created_at=now(),
        manifest=bundle.manifest,
        manifest_sha256=digest_file(bundle.root / MANIFEST_FILE).sha256,
        tools=tool_versions(),
        machine=f"{machine.processor}, {machine.cores} cores, {machine.os}",
        verdict=stored_verdict(bundle),
        reference=Picture(to_pixels(bundle.golden("decoder.image"))).png() if has_golden else None,
        runs=tuple(labelled),
        times=None if device is None else _times(bundle, targets, device, budget_ms, reports),
        benches=tuple(reports),
        weights=tuple(_weights(targets)),
        findings=tuple(lint_targets(targets)),
        shown=tuple(_shown((*beside, bundle), [one.label for one in labelled], wanted, precision, advance)),
        fit=fit_verdict(bundle),
    )


def work(bundle: Bundle, beside: Sequence[Bundle], prompts: Sequence[str] | None = None) -> int:
    """How often `gather` advances."""
    if not has_golden_run(bundle):
        return 0
    bundles = (bundle, *beside)
    runs = sum(evaluation_work(one, golden_reference(one)) for one in bundles if has_golden_run(one))
    return runs + len(prompts_of(bundle, prompts)) * len(bundles)


def prompts_of(bundle: Bundle, prompts: Sequence[str] | None) -> tuple[str, ...]:
    """The given prompts; without any, some of what the built-in model draws, and none with a model of others."""
    known = vocabulary_of(bundle.manifest)
    if prompts is not None:
        return tuple(prompts)
    return EXAMPLES if known is not None else ()


def _shown(
    bundles: Sequence[Bundle], labels: Sequence[str], prompts: Sequence[str], precision: Precision, advance: Advance
) -> Iterator[Shown]:
    """Each prompt drawn with every bundle, seed 0 and the bundle's defaults."""
    from sfmobile.sampling.pipeline import Pipeline, Request

    drawn: dict[str, dict[str, bytes]] = {prompt: {} for prompt in prompts}
    for one, label in zip(bundles, labels, strict=False):
        with Pipeline(one, runtime="mil", precision=precision) as pipeline:
            for prompt in drawn:
                drawn[prompt][label] = pipeline.draw(Request(prompt)).picture.png()
                advance(1)
    yield from (Shown(prompt, pictures) for prompt, pictures in drawn.items())


def has_golden_run(bundle: Bundle) -> bool:
    """Whether the bundle holds a run, and the components to draw it again."""
    return bundle.manifest.golden is not None and draws(bundle, tuple(bundle.manifest.components))


def label_of(bundle: Bundle) -> str:
    """How a bundle's weights are stored: "fp16", "6 bits"; by the UNet's, which is most of them."""
    components = bundle.manifest.components
    record = components.get(bundle.manifest.pipeline.unet) or next(iter(components.values()))
    compression = record.compression
    if compression is None:
        return "fp16"
    recipe = " by recipe" if compression.recipe_sha256 is not None else ""
    return f"{compression.bits} bits{recipe}"


def told_apart(runs: Sequence[Run], names: Sequence[str]) -> list[Run]:
    """The runs, those of bundles whose weights are stored alike labelled with the bundles' names too."""
    labels = [run.label for run in runs]
    return [
        replace(run, label=f"{run.label} ({name})") if labels.count(run.label) > 1 else run
        for run, name in zip(runs, names, strict=True)
    ]


def _check_same_source(bundle: Bundle, other: Bundle) -> None:
    for name, record in bundle.manifest.components.items():
        found = other.manifest.components.get(name)
        if found is None or found.source_sha256 != record.source_sha256:
            raise UsageError(
                f"'{other.root}' has {'no ' + name if found is None else 'the ' + name + ' of another checkpoint'}; a "
                f"bundle beside '{bundle.root}' must be exported from the same one."
            )


def golden_run(bundle: Bundle, precision: Precision, advance: Advance = lambda units: None) -> Run:
    """Run the bundle's golden prompt and compare it with the reference: components, every step, the picture."""
    from sfmobile.runtime.mil.runtime import MilRuntime

    reference = golden_reference(bundle)
    runtime = MilRuntime(bundle, precision)
    found = answer(bundle, runtime, reference, advance, tuple(bundle.manifest.components))
    described = RuntimeRecord(kind="mil", description=runtime.describe(), precision=precision)
    compared = compare(reference, found, described, Gates(), bundle)
    (drawn,) = found.runs
    return Run(
        label_of(bundle),
        described.description,
        None if drawn.picture is None else Picture(drawn.picture).png(),
        drawn.broke_off or "",
        None if drawn.picture is None else compared.picture,
        {name: component.worst for name, component in compared.components.items()},
        tuple(step.agreement for step in compared.steps),
    )


def stored_verdict(bundle: Bundle) -> VerifyReport | None:
    """The newest verify report in the bundle's reports folder that is of this very bundle."""
    return max(_stored(bundle, VerifyReport), key=lambda report: report.created_at, default=None)


def stored_benches(bundle: Bundle) -> list[BenchReport]:
    """Bench reports in the bundle's reports folder that are of this very bundle; others are none of its business."""
    return list(_stored(bundle, BenchReport))


def _stored(bundle: Bundle, kind: type[Report]) -> Iterator[Report]:
    sha256 = digest_file(bundle.root / MANIFEST_FILE).sha256
    for path in sorted(bundle.reports_dir.glob("*.json")):
        try:
            report = read_report(path, kind) if report_kind(path) == KINDS[kind] else None
        except ArtifactError:
            continue
        if report is not None and report.bundle.manifest_sha256 == sha256:
            yield report


def _times(
    bundle: Bundle, targets: Sequence[LintTarget], device: str, budget_ms: float, reports: Sequence[BenchReport]
) -> DeviceTime:
    table = device_table()
    chosen = table.find(device)
    parts = [
        Part(
            name,
            tuple(target.program for target in targets if target.component == name),
            calls_per_picture(bundle.manifest, name),
        )
        for name in bundle.manifest.components
    ]
    measured: dict[str, MeasuredTime] = {}
    for report in reports:
        found = table.of_machine(report.machine.model, report.machine.processor)
        if report.runtime.kind == "coreml" and found is not None and found.chip == chosen.chip:
            source = f"{report.runtime.description}, {report.machine.model or report.machine.processor}"
            measured.update(
                (name, MeasuredTime(milliseconds=one.median_ms, source=source, placement=one.placement))
                for name, one in report.components.items()
                if one.median_ms > 0
            )
    return device_time(
        [part for part in parts if part.programs],
        chosen,
        rate_basis=table.chips[chosen.chip].basis or "published latencies of this chip",
        budget_ms=budget_ms,
        measured=measured,
    )


def _weights(targets: Sequence[LintTarget]) -> list[StoredWeight]:
    return [
        StoredWeight(target.label, block, weight)
        for target in targets
        for block, weight in weights_of(target.subject.graph)
    ]
