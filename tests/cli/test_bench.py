from __future__ import annotations

import json
from pathlib import Path

from sfmobile.bench.report import BenchReport, read_report
from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.pipeline import TEXT_TO_IMAGE
from sfmobile.cli import console
from tests.bench.sample import bench
from tests.cli.run import run


def test_every_component_and_the_loop_are_measured_with_names_to_the_figures(
    tiny_palettized_bundle: Bundle, tmp_path: Path, capsys
) -> None:
    bundle, path = tiny_palettized_bundle, tmp_path / "bench.json"
    outcome = run(capsys, "bench", bundle.root, "-n", 3, "--steps", 2, "--precision", "fp16", "-o", path, "--json")
    assert outcome.code == 0
    report = read_report(path, BenchReport)
    assert BenchReport.model_validate(json.loads(outcome.out)) == report
    assert report.runtime.kind == "mil" and report.runtime.precision == "fp16"
    assert report.bundle.name == bundle.manifest.name and report.machine.cores >= 1
    assert tuple(report.components) == TEXT_TO_IMAGE
    for name, latency in report.components.items():
        assert latency.predictions == 3
        assert 0 < latency.minimum_ms <= latency.median_ms <= latency.p95_ms
        assert latency.cold_load_ms > 0 and latency.warm_load_ms > 0 and latency.first_prediction_ms > 0
        assert latency.memory is not None and latency.memory.added_bytes > 0
        assert latency.package_bytes == bundle.manifest.components[name].bytes
    loop = report.loop
    # Guidance with a UNet of batch 1 calls it twice a step.
    assert loop is not None and loop.steps == len(loop.steps_ms) == 2 and loop.unet_calls == 4
    assert loop.end_to_end_ms >= sum(loop.steps_ms) + loop.decoder_ms


def test_the_table_names_runtime_and_machine(capsys) -> None:
    console.print_parts(*bench().tables())
    out = capsys.readouterr().out
    assert "on mil fp32" in out and "Apple M2, 8 cores, macOS 15.1" in out and "2 UNet calls" in out


def test_the_loop_is_measured_with_another_sampler(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    options = ("--steps", 2, "--sampler", "heun", "--guidance", 1, "-o", tmp_path / "bench.json", "--json")
    outcome = run(capsys, "bench", tiny_bundle.root, "-n", 1, *options)
    assert outcome.code == 0, outcome.err
    loop = json.loads(outcome.out)["loop"]
    assert loop["sampler"] == "heun" and loop["steps"] == 3


def test_nonsense_is_refused_before_measuring(tiny_bundle: Bundle, capsys) -> None:
    outcome = run(capsys, "bench", tiny_bundle.root, "--steps", 0)
    assert outcome.code == 2 and "found 0" in outcome.sentence
    assert run(capsys, "bench", tiny_bundle.root, "-n", 0).code == 2
    outcome = run(capsys, "bench", tiny_bundle.root, "--sampler", "dreams")
    assert outcome.code == 2 and "no sampler 'dreams'" in outcome.sentence
