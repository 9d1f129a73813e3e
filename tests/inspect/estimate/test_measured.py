from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sfmobile.bench.records import RuntimeRecord
from sfmobile.bench.report import write_report
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.inspect.estimate.devices import device_table
from sfmobile.inspect.estimate.measured import DeviceFactors, MeasuredTime, device_factors, read_measured
from tests.bench.sample import BUNDLE, MACHINE, bench

PHONE = device_table().find("iphone-14-pro")
ON_PHONE = MACHINE.model_copy(update={"model": "iPhone15,2", "processor": "Apple A16", "os": "iOS 18.1"})
CORE_ML = RuntimeRecord(kind="coreml", description="coreml CPU_AND_NE", compute_unit="CPU_AND_NE")


def written(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "bench.json"
    write_report(bench(machine=ON_PHONE, runtime=CORE_ML).model_copy(update=changes), path)
    return path


def test_medians_of_the_device_are_read_with_what_measured_them(tmp_path: Path) -> None:
    found = read_measured([written(tmp_path)], BUNDLE, PHONE)
    assert {name: one.milliseconds for name, one in found.items()} == {"unet": 10.0, "decoder": 10.0}
    assert found["unet"].source == "coreml CPU_AND_NE, iPhone15,2, iOS 18.1"


def test_another_phone_with_the_same_chip_will_do(tmp_path: Path) -> None:
    assert read_measured([written(tmp_path)], BUNDLE, device_table().find("iphone-15"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bundle": BUNDLE.model_copy(update={"manifest_sha256": "9" * 64})}, "measured the bundle 'tiny'"),
        (
            {"runtime": RuntimeRecord(kind="mil", description="mil fp16", precision="fp16")},
            "says nothing of iPhone 14 Pro",
        ),
        ({"machine": MACHINE}, "not on iPhone 14 Pro"),
        ({"runtime": CORE_ML.model_copy(update={"compute_unit": "CPU_ONLY"})}, "expected CPU_AND_NE or ALL"),
    ],
)
def test_reports_that_say_nothing_of_this_bundle_on_this_device_are_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        read_measured([written(tmp_path, **changes)], BUNDLE, PHONE)


def test_a_truncated_report_is_named(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text()[:200])
    with pytest.raises(ArtifactError, match="is not JSON"):
        read_measured([path], BUNDLE, PHONE)


def test_device_factors_scale_by_component_and_by_the_mean_elsewhere(tmp_path: Path) -> None:
    measured = {"unet": MeasuredTime(milliseconds=20, source="a"), "decoder": MeasuredTime(milliseconds=5, source="a")}
    found = device_factors(PHONE, measured, {"unet": 10.0, "decoder": 10.0})
    assert found.factors == {"unet": 2.0, "decoder": 0.5}
    assert found.factor("unet") == 2.0
    assert found.factor("text_encoder") == pytest.approx(1.0)
    found.write(tmp_path / "factors.json")
    assert DeviceFactors.read(tmp_path / "factors.json", PHONE) == found


def test_factors_of_another_device_or_none_at_all_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "factors.json"
    device_factors(PHONE, {"unet": MeasuredTime(milliseconds=20, source="a")}, {"unet": 10.0}).write(path)
    with pytest.raises(UsageError, match="holds factors of iphone-14-pro, not iphone-12"):
        DeviceFactors.read(path, device_table().find("iphone-12"))
    path.write_text('{"kind": "bench"}')
    with pytest.raises(ArtifactError, match=r"is not a file of device factors at kind: .* found 'bench'"):
        DeviceFactors.read(path, PHONE)
    with pytest.raises(ArtifactError, match=r"absent\.json' doesn't exist: expected a file of device factors"):
        DeviceFactors.read(tmp_path / "absent.json", PHONE)
    with pytest.raises(UsageError, match="at least one measured component"):
        device_factors(PHONE, {}, {"unet": 10.0})
