from __future__ import annotations

import pytest

import sfmobile
from sfmobile.bench.comparison import compare_bench, compare_verify, differences
from sfmobile.bench.records import RuntimeRecord
from sfmobile.errors import UsageError
from tests.bench.sample import MACHINE, bench, close_by, latency, verify


def regressed(changes) -> set[str]:
    return {change.name for change in changes if change.regressed}


def test_a_report_does_not_regress_against_itself() -> None:
    assert not regressed(compare_bench(bench(), bench(), percent=0.0))
    assert not regressed(compare_verify(verify(), verify(), decibels=0.0))


def test_only_what_got_slower_than_the_threshold_regresses() -> None:
    changes = compare_bench(bench(10.0), bench(11.5), percent=10.0)
    assert regressed(changes) == {"unet median_ms", "unet minimum_ms"}
    assert not regressed(compare_bench(bench(10.0), bench(11.5), percent=16.0))
    assert not regressed(compare_bench(bench(11.5), bench(10.0), percent=0.0))


def test_tails_and_first_loads_are_shown_without_a_gate() -> None:
    slow_load = latency().model_copy(update={"cold_load_ms": 1e6, "p95_ms": 1e6})
    changes = compare_bench(bench(), bench(components={"unet": slow_load, "decoder": latency()}), percent=10.0)
    assert not regressed(changes)
    assert next(change for change in changes if change.name == "unet cold_load_ms").after == 1e6


def test_memory_and_the_whole_loop_are_gated() -> None:
    fat = bench(components={"unet": latency(peak_bytes=2000), "decoder": latency()})
    assert regressed(compare_bench(bench(), fat, percent=10.0)) == {"unet peak_bytes"}
    loop = bench().loop
    assert loop is not None
    slow = bench(loop=loop.model_copy(update={"end_to_end_ms": 99.0}))
    assert regressed(compare_bench(bench(), slow, percent=10.0)) == {"loop end_to_end_ms"}


def test_a_component_that_vanished_is_a_regression_and_a_new_one_is_not() -> None:
    without = bench(components={"unet": latency()})
    assert "decoder median_ms" in regressed(compare_bench(bench(), without, percent=1000.0))
    assert not regressed(compare_bench(without, bench(), percent=0.0))


def test_figures_of_other_machines_runtimes_and_precisions_are_told_apart() -> None:
    other = bench(
        machine=MACHINE.model_copy(update={"model": "Mac15,3"}),
        runtime=RuntimeRecord(kind="mil", description="mil fp16", precision="fp16", threads=2),
    )
    assert differences(bench(), bench(99.0)) == []
    assert differences(bench(), other) == ["machine Mac14,2 against Mac15,3", "precision fp32 against fp16"]


def test_lost_decibels_regress_and_gained_ones_do_not() -> None:
    before, after = verify(close_by(70.0)), verify(close_by(68.5))
    assert regressed(compare_verify(before, after, decibels=1.0)) == {"mil fp16 unet"}
    assert not regressed(compare_verify(before, after, decibels=2.0))
    assert not regressed(compare_verify(after, before, decibels=0.0))


def test_nan_and_the_loss_of_identity_regress_without_a_figure() -> None:
    good, same, broken = close_by(70.0), close_by(None, identical=True), close_by(None, nonfinite=3)
    assert regressed(compare_verify(verify(good), verify(broken), decibels=1e9)) == {"mil fp16 unet"}
    assert regressed(compare_verify(verify(same), verify(good), decibels=1e9)) == {"mil fp16 unet"}
    assert not regressed(compare_verify(verify(broken), verify(good), decibels=0.0))
    assert not regressed(compare_verify(verify(good), verify(same), decibels=0.0))


def test_compare_takes_records_as_well_as_files() -> None:
    same = sfmobile.compare(bench(10.0), bench(10.0))
    assert same.passed and str(same).startswith("Passed")
    slower = sfmobile.compare(bench(10.0), bench(20.0))
    assert "unet median_ms" in slower.regressed and str(slower).startswith("FAILED: worse in unet median_ms")
    assert not sfmobile.compare(verify(), verify(close_by(None, nonfinite=1))).passed
    with pytest.raises(UsageError, match="compare two of one kind"):
        sfmobile.compare(bench(), verify())
