"""A plan of measurements over a training run: which stages at which steps and guidance, what of each, and the grid.

Runs without the command line: `python -m sfmobile.evaluate.plan --plan models/recipes/glyph-128 --run RUN
--cache CACHE --out OUT`. Measurements already in OUT are kept, so a killed evaluation goes on where it was.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from sfmobile.errors import UsageError
from sfmobile.evaluate.evaluation import DUAL_ENCODER, Evaluation, EvaluationConfig, load_judges
from sfmobile.evaluate.figures import AGREEMENT, DISTANCES, THROUGHPUT
from sfmobile.evaluate.metrics.decoder_pair import compare_decoders
from sfmobile.evaluate.metrics.memorisation import as_bytes, as_float
from sfmobile.evaluate.plots import write_grid
from sfmobile.evaluate.report import EvaluationRecord, SamplerFigures, machine, markdown
from sfmobile.evaluate.run_samplers import RunSamplers, Variant
from sfmobile.evaluate.targets import QualityTarget, target_table
from sfmobile.files import sha256_of_file, write_text
from sfmobile.train.config import read_config
from sfmobile.train.pictures import Pictures, PicturesConfig
from sfmobile.train.plan import PlanRun
from sfmobile.train.run import Run

RECORD = "evaluation.json"
WEIGHTS = "weights.safetensors"
DECODER_PAIR = "Decoder pair"


@dataclass(frozen=True)
class EvaluationPlan:
    """What to measure on a run. Variants whose stage wasn't trained are left out and said so.

    pictures: settings file of the pictures that the run was trained on; decoder_pair: stages of the full and the
    half-width decoder; own_latents: how many of the first grid variant's latents they are compared on; targets: what
    was to be reached; notes: paragraphs for the report.
    """

    variants: tuple[Variant, ...]
    pictures: str = "pictures"
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    grid_captions: tuple[str, ...] = ()
    grid_seed: int = 0
    decoder_pair: tuple[str, str] | None = ("autoencoder", "decoder")
    own_latents: int = 512
    targets: tuple[QualityTarget, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"The evaluation plan has two variants called '{twice}'; measurements are kept by name.")


def run_plan(
    plan: EvaluationPlan,
    run: Run,
    evaluation: Evaluation,
    out: Path,
    say: Callable[[str], None] = lambda line: None,
    only: Sequence[str] = (),
    command: str = "",
) -> EvaluationRecord:
    """Measure every variant of the plan whose stages exist, keeping what `out` has of the same weights; write record
    and grid.

    only: names of the variants to measure, all by default; command: what does it again, for the report. Raises
    UsageError if the plan has no such variant, or if `out` holds figures of other settings.
    """
    path = out / RECORD
    judges = evaluation.judges
    record = _record(path, evaluation, machine(run.device), command)
    samplers = RunSamplers(run, judges.encode, evaluation.side, evaluation.config.precision)
    known = []
    for variant in _chosen(plan, only):
        missing = _missing(run, variant)
        if missing is not None:
            say(f"{variant.name}: left out, stage '{missing}' has no weights")
        else:
            known.append(variant)
    if record.find("real held-out pictures") is None:
        record.judge = evaluation.judge_figures()
        record.measurements.append(evaluation.real())
        record.write(path)
    _reconstruct(plan, samplers, evaluation, record)
    # In the plan's order, whichever was measured first.
    order = {variant.name: place for place, variant in enumerate(plan.variants)}
    for variant in known:
        settings = _settings(run, variant)
        kept = record.find(variant.name)
        if kept is not None and kept.settings == settings:
            continue
        measured = _again(record, variant, settings) or evaluation.measure(
            variant.name,
            samplers.sampler(variant),
            settings,
            variant.parts,
            series=variant.series,
            varies=variant.varies,
            first_seed=variant.first_seed,
        )
        # Other figures don't mind what else the machine does at the time; this one is `measure_throughput`'s.
        measured.figures.pop(THROUGHPUT, None)
        record.put(measured)
        record.measurements.sort(key=lambda item: order.get(item.name, -1))
        record.write(path)
        say(f"{variant.name}: " + ", ".join(f"{key} {value:.4g}" for key, value in measured.figures.items()))
    # Whatever was asked for this time, grid and decoders show the whole plan, as far as it is trained.
    trained = [variant for variant in plan.variants if variant.grid and _missing(run, variant) is None]
    _write_grid(plan, trained, samplers, out)
    _compare_decoders(plan, trained, samplers, evaluation, record)
    record.notes = list(plan.notes)
    record.targets = target_table(plan.targets, record)
    record.write(path)
    write_text(out / "evaluation.md", markdown(record))
    return record


def _record(path: Path, evaluation: Evaluation, on: dict[str, str], command: str) -> EvaluationRecord:
    """The record at `path`, or a new one; figures of other prompts or sizes don't belong in one table."""
    made = {**evaluation.describe(), "machine": on, "command": command}
    if not path.exists():
        return EvaluationRecord(made, {}, kinds=evaluation.kinds())
    record = EvaluationRecord.read(path)
    record.kinds = {**evaluation.kinds(), **record.kinds}
    for key, value in made.items():
        if key not in ("machine", "command") and record.made.get(key) != value:
            raise UsageError(
                f"{path}: its figures were measured with {key}={record.made.get(key)}, found {value}; measure into "
                "another directory or delete it."
            )
    return record


def _chosen(plan: EvaluationPlan, only: Sequence[str]) -> list[Variant]:
    unknown = [name for name in only if name not in {variant.name for variant in plan.variants}]
    if unknown:
        raise UsageError(f"The evaluation plan has no variant '{unknown[0]}'; see its evaluation.json.")
    return [variant for variant in plan.variants if not only or variant.name in only]


def _missing(run: Run, variant: Variant) -> str | None:
    """The first stage that a variant needs and that has no weights."""
    return next((stage for stage in (variant.stage, variant.decoder) if not _has_weights(run, stage)), None)


def _has_weights(run: Run, stage: str) -> bool:
    return (run.root / stage / WEIGHTS).exists()


def measure_throughput(
    plan: EvaluationPlan, run: Run, evaluation: Evaluation, out: Path, pictures: int, only: Sequence[str] = ()
) -> EvaluationRecord:
    """Pictures a second of the grid's variants (or of `only`), the better of two runs of `pictures`; for an idle
    machine. The record in `out` keeps them."""
    record = EvaluationRecord.read(out / RECORD)
    samplers = RunSamplers(run, evaluation.judges.encode, evaluation.side, evaluation.config.precision)
    captions = [evaluation.distribution.captions[n % len(evaluation.distribution)] for n in range(pictures)]
    rates = record.extra.setdefault("Pictures per second", {})
    for variant in _chosen(plan, only):
        if _missing(run, variant) or not (variant.grid or only):
            continue
        sampler, seconds = samplers.sampler(variant), []
        for _ in range(2):
            began = time.perf_counter()
            sampler(captions, range(pictures))
            seconds.append(time.perf_counter() - began)
        rates[variant.name] = pictures / min(seconds)
    record.write(out / RECORD)
    return record


def _settings(run: Run, variant: Variant) -> dict[str, float | int | str]:
    """All that a variant's pictures depend on."""
    return {
        "stage": variant.stage,
        "steps": variant.steps,
        "guidance": variant.guidance,
        "decoder": variant.decoder,
        "first_seed": variant.first_seed,
        "weights": _digests(run, variant.stage, variant.decoder),
    }


def _digests(run: Run, *stages: str) -> str:
    """Which weights stages left: the start of each file's SHA-256."""
    return " ".join(sha256_of_file(run.root / stage / WEIGHTS)[:12] for stage in stages)


def _again(record: EvaluationRecord, variant: Variant, settings: dict[str, float | int | str]) -> SamplerFigures | None:
    """A sweep's point that was measured under another name: the same pictures, so the same distances."""
    if variant.parts != ("distribution",):
        return None
    same = (item for item in record.measurements if item.settings == settings and AGREEMENT in item.figures)
    found = next(same, None)
    if found is None:
        return None
    figures = {name: value for name, value in found.figures.items() if name in record.figures_of(DISTANCES)}
    return SamplerFigures(variant.name, found.settings, figures, variant.series, variant.varies)


def _reconstruct(plan: EvaluationPlan, samplers: RunSamplers, evaluation: Evaluation, record: EvaluationRecord) -> None:
    """The real held-out pictures through each of the decoders: what the autoencoder alone costs."""
    if plan.decoder_pair is None:
        return
    full, _ = plan.decoder_pair
    real = as_float(evaluation.distribution.pictures)
    for stage in plan.decoder_pair:
        if not (_has_weights(samplers.run, full) and _has_weights(samplers.run, stage)):
            continue
        name = f"real held-out pictures through '{stage}'"
        settings: dict[str, float | int | str] = {
            "decoder": stage,
            "weights": _digests(samplers.run, full, stage),
        }
        kept = record.find(name)
        if kept is None or kept.settings != settings:
            made = as_bytes(samplers.reconstructed(real, full, stage)).cpu()
            record.put(SamplerFigures(name, settings, evaluation.distribution_figures(made)))


def _write_grid(plan: EvaluationPlan, variants: Sequence[Variant], samplers: RunSamplers, out: Path) -> None:
    if not variants or not plan.grid_captions:
        return
    seeds = [plan.grid_seed] * len(plan.grid_captions)
    rows = [(variant.name, samplers.sampler(variant)(plan.grid_captions, seeds).cpu()) for variant in variants]
    write_grid(rows, plan.grid_captions, out / "grid.png")


def _compare_decoders(
    plan: EvaluationPlan,
    variants: Sequence[Variant],
    samplers: RunSamplers,
    evaluation: Evaluation,
    record: EvaluationRecord,
) -> None:
    lpips = evaluation.judges.lpips
    source = next((variant for variant in variants if variant.grid), None)
    if plan.decoder_pair is None or source is None or lpips is None:
        return
    full, half = plan.decoder_pair
    run = samplers.run
    if not _has_weights(run, half):
        return
    measured_on = f"{_digests(run, full, half, source.stage)}, {plan.own_latents} latents of {source.name}"
    if DECODER_PAIR in record.extra and record.sources.get(DECODER_PAIR) == measured_on:
        return
    count = plan.own_latents
    pictures = as_float(evaluation.distribution.pictures[:count]).to(run.device)
    pair = compare_decoders(
        run.encoder(full).to(run.device).eval(),
        samplers.decoder(full),
        samplers.decoder(half),
        lpips,
        pictures,
        samplers.latents(source, evaluation.distribution.captions[:count]),
    )
    record.sources[DECODER_PAIR] = measured_on
    record.extra[DECODER_PAIR] = {
        **asdict(pair),
        "psnr_lost": pair.full_psnr - pair.half_psnr,
        "macs_ratio": pair.macs_ratio,
    }


def evaluate_by_plan(
    directory: Path,
    root: Path,
    cache: Path,
    out: Path,
    *,
    judge: Path = DUAL_ENCODER,
    pictures: int | None = None,
    only: Sequence[str] = (),
    throughput: int = 0,
    cpu: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> EvaluationRecord:
    """Measure the run at `root` of the training plan in `directory` by the evaluation.json beside it.

    `cache` holds the sprites and the metric networks, which are fetched if missing; `pictures` overrides the plan's;
    LPIPS is on the trunk that the run is trained with; `only`: as in `run_plan`; `throughput`: measure nothing but how
    fast this many pictures are sampled.
    """
    plan = read_config(EvaluationPlan, directory / "evaluation.json")
    if pictures is not None:
        plan = replace(plan, evaluation=replace(plan.evaluation, pictures=pictures))
    opened = PlanRun(directory, root, cache, cpu)
    run = opened.run
    selection = read_config(PicturesConfig, directory / f"{plan.pictures}.json")
    trunk = opened.plan.perceptual
    judges = load_judges(cache, judge, run.device, trunk=trunk, feature_size=plan.evaluation.feature_size)
    pool = Pictures.open(cache, selection, run.device).pool
    evaluation = Evaluation(pool, judges, plan.evaluation, selection.side, selection.splits)
    if throughput:
        return measure_throughput(plan, run, evaluation, out, throughput, only)
    command = f"sfmobile train evaluate {directory.as_posix()} --run RUN -o DIRECTORY"
    return run_plan(plan, run, evaluation, out, say, only, command)


def main() -> None:
    """Command-line entry without third-party packages."""
    parser = argparse.ArgumentParser(description="Measure a training run by its plan.")
    parser.add_argument(
        "--plan", "--recipe", type=Path, required=True, help="directory with recipe.json and evaluation.json"
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True, help="sprites, and metrics/*.safetensors")
    parser.add_argument("--judge", type=Path, default=DUAL_ENCODER, help="dual_encoder.safetensors")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, help="in place of the plan's number")
    parser.add_argument("--only", action="append", default=[], help="a variant's name; may be given several times")
    parser.add_argument("--throughput", type=int, default=0, help="only time the sampling of so many pictures")
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    record = evaluate_by_plan(
        options.plan,
        options.run,
        options.cache,
        options.out,
        judge=options.judge,
        pictures=options.pictures,
        only=options.only,
        throughput=options.throughput,
        cpu=options.cpu,
        say=lambda line: print(line, flush=True),
    )
    print(markdown(record))


if __name__ == "__main__":
    main()
