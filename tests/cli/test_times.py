"""`sfmobile inspect --device`: estimated and measured time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from sfmobile.bench.records import RuntimeRecord
from sfmobile.bench.report import write_report
from sfmobile.bundle.digest import digest_file
from sfmobile.bundle.directory import MANIFEST_FILE, Bundle
from tests.bench.sample import BUNDLE, MACHINE, bench
from tests.cli.run import run

PHONE = MACHINE.model_copy(update={"model": "iPhone15,2", "processor": "Apple A16", "os": "iOS 18.1"})
CORE_ML = RuntimeRecord(kind="coreml", description="coreml CPU_AND_NE", compute_unit="CPU_AND_NE")


@pytest.fixture
def measured(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A report of the tiny bundle from an iPhone 14 Pro."""
    sha256 = digest_file(tiny_bundle.root / MANIFEST_FILE).sha256
    path = tmp_path / "bench.json"
    report = bench(3.0, bundle=BUNDLE.model_copy(update={"manifest_sha256": sha256}), machine=PHONE, runtime=CORE_ML)
    write_report(report, path)
    return path


def test_estimates_are_labelled_and_held_against_two_seconds(tiny_bundle: Bundle, capsys) -> None:
    outcome = run(capsys, "inspect", tiny_bundle.root, "--device", "iphone-14-pro")
    assert outcome.code == 0
    assert "Time on iPhone 14 Pro (A16), estimated" in outcome.out
    assert "within the budget of 2 s" in outcome.out and "off by" in outcome.out
    assert "Time on iPhone 14 Pro, estimated: " in outcome.out.splitlines()[2]
    assert "by block" not in outcome.out
    outcome = run(capsys, "inspect", tiny_bundle.root, "--device", "iphone-14-pro", "--all")
    assert "unet: one call by block, division estimated" in outcome.out


def test_the_json_has_the_time_beside_the_packages(tiny_bundle: Bundle, capsys) -> None:
    outcome = run(capsys, "inspect", tiny_bundle.root, "--device", "iphone-14-pro", "--steps", "3", "--json")
    time = json.loads(outcome.out)["time"]
    assert time["label"] == "estimated" and time["device"] == "iphone-14-pro"
    assert {one["component"]: one["calls"] for one in time["components"]} == {
        "text_encoder": 2, "unet": 3, "decoder": 1
    }  # fmt: skip
    blocks = {block["block"] for one in time["components"] for block in one["blocks"]}
    assert "down_blocks.0.attentions.0" in blocks


def test_a_single_package_is_timed_by_the_call(tiny_bundle: Bundle, capsys) -> None:
    outcome = run(capsys, "inspect", tiny_bundle.package("unet"), "--device", "iphone-12", "--json")
    (component,) = json.loads(outcome.out)["time"]["components"]
    assert component["calls"] == 1 and component["component"] == "UNet.mlpackage"


def test_an_unknown_device_lists_the_nearest(tiny_bundle: Bundle, capsys) -> None:
    outcome = run(capsys, "inspect", tiny_bundle.root, "--device", "iphone-41-pro")
    assert outcome.code == 2 and "iphone-14-pro" in outcome.sentence


def test_measurements_replace_the_estimate_and_scale_others(
    tiny_bundle: Bundle, tiny_palettized_bundle: Bundle, measured: Path, tmp_path: Path, capsys
) -> None:
    saved = tmp_path / "factors.json"
    phone = ("--device", "iphone-14-pro", "--json")
    outcome = run(capsys, "inspect", tiny_bundle.root, *phone, "--measured", measured, "--save-device-factors", saved)
    bases = {one["component"]: one["basis"] for one in json.loads(outcome.out)["time"]["components"]}
    assert bases == {"text_encoder": "estimated", "unet": "measured", "decoder": "measured"}
    plain = json.loads(run(capsys, "inspect", tiny_palettized_bundle.root, *phone).out)["time"]
    scaled = json.loads(run(capsys, "inspect", tiny_palettized_bundle.root, *phone, "--device-factors", saved).out)[
        "time"
    ]
    factors = json.loads(saved.read_text())["factors"]
    for before, after in zip(plain["components"], scaled["components"], strict=True):
        if before["component"] in factors:
            assert after["call_ms"] == pytest.approx(before["call_ms"] * factors[before["component"]])
        assert after["basis"] == "estimated, scaled"


def test_a_report_of_another_bundle_is_refused(tiny_palettized_bundle: Bundle, measured: Path, capsys) -> None:
    outcome = run(capsys, "inspect", tiny_palettized_bundle.root, "--device", "iphone-14-pro", "--measured", measured)
    assert outcome.code == 2 and "measured the bundle" in outcome.sentence


def test_a_report_of_a_later_version_or_cut_short_is_refused(tiny_bundle: Bundle, measured: Path, capsys) -> None:
    whole = measured.read_text()
    phone = ("--device", "iphone-14-pro", "--measured", measured)
    measured.write_text(json.dumps(json.loads(whole) | {"schema_version": 9}))
    outcome = run(capsys, "inspect", tiny_bundle.root, *phone)
    assert outcome.code == 4 and "schema_version 9 but this sfmobile reads 1; upgrade" in outcome.sentence
    measured.write_text(whole[: len(whole) // 2])
    outcome = run(capsys, "inspect", tiny_bundle.root, *phone)
    assert outcome.code == 4 and "bench.json" in outcome.sentence


def test_a_plot_shows_where_the_time_goes(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    path = tmp_path / "times.png"
    assert run(capsys, "inspect", tiny_bundle.root, "--device", "iphone-14-pro", "--plot", path).code == 0
    assert Image.open(path).size[0] >= 1000


@pytest.mark.parametrize(
    "option", ["--measured", "--device-factors", "--save-device-factors", "--compute-plan", "--plot"]
)
def test_options_of_time_need_a_device(tiny_bundle: Bundle, option: str, capsys) -> None:
    outcome = run(capsys, "inspect", tiny_bundle.root, option, "file")
    assert outcome.code == 2 and "need --device" in outcome.sentence


def test_a_compute_plan_of_another_package_is_refused(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(
        '{"kind": "compute_plan", "version": 1, "package": "Other.mlpackage", "machine": "a Mac", '
        '"compute_unit": "ALL", "operations": []}'
    )
    outcome = run(capsys, "inspect", tiny_bundle.root, "--device", "iphone-14-pro", "--compute-plan", plan)
    assert outcome.code == 2 and "'Other.mlpackage', which isn't among" in outcome.sentence
    outcome = run(capsys, "inspect", tiny_bundle.root, "--record-plan", tmp_path / "new.json")
    assert outcome.code == 2 and "needs one .mlpackage" in outcome.sentence
