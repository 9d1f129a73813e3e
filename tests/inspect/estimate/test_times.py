from __future__ import annotations

import pytest

from sfmobile.bench.records import now
from sfmobile.bench.report import PlacementRecord
from sfmobile.bundle.directory import Bundle
from sfmobile.inspect.estimate.devices import device_table
from sfmobile.inspect.estimate.measured import DeviceFactors, MeasuredTime
from sfmobile.inspect.estimate.times import DeviceTime, Part, calls_per_picture, device_time
from sfmobile.inspect.operations.compute_plan import ComputePlan, PlannedOperation
from sfmobile.mlpackage.program import load_program

PHONE = device_table().find("iphone-14-pro")


@pytest.fixture(scope="module")
def parts(tiny_bundle: Bundle) -> list[Part]:
    manifest = tiny_bundle.manifest
    return [
        Part(name, (load_program(tiny_bundle.package(name)),), calls_per_picture(manifest, name))
        for name in manifest.components
    ]


def report(parts: list[Part], **known: object) -> DeviceTime:
    return device_time(parts, PHONE, rate_basis="tests", **known)  # type: ignore[arg-type]


def test_a_guided_picture_calls_each_component_as_often_as_the_pipeline_does(
    tiny_bundle: Bundle, tiny_palettized_bundle: Bundle
) -> None:
    both, one_by_one = tiny_bundle.manifest, tiny_palettized_bundle.manifest
    steps = both.pipeline.default_steps
    assert [calls_per_picture(both, name) for name in both.components] == [2, steps, 1]
    assert [calls_per_picture(one_by_one, name, steps=3) for name in both.components] == [2, 6, 1]


def test_blocks_add_up_to_calls_and_calls_to_the_picture(parts: list[Part]) -> None:
    found = report(parts)
    assert found.label == "estimated"
    for component in found.components:
        assert sum(block.milliseconds for block in component.blocks) == pytest.approx(component.call_ms)
        assert component.picture_ms == pytest.approx(component.calls * component.call_ms)
        assert component.basis == "estimated" and "left out" in component.source
    assert found.picture_ms == pytest.approx(sum(one.picture_ms for one in found.components))
    assert found.within_budget
    assert not report(parts, budget_ms=found.picture_ms / 2).within_budget


def test_a_slower_chip_takes_longer(parts: list[Part]) -> None:
    slow = device_time(parts, device_table().find("iphone-12"), rate_basis="tests")
    assert slow.picture_ms > report(parts).picture_ms


def test_measurements_replace_estimates_and_the_label_says_how_many(parts: list[Part]) -> None:
    placement = PlacementRecord(operations=10, neural_engine=9, gpu=0, cpu=1, off_neural_engine={"gather": 1})
    measured = {"unet": MeasuredTime(milliseconds=3.0, source="a phone", placement=placement)}
    found = report(parts, measured=measured)
    unet = next(one for one in found.components if one.component == "unet")
    assert (unet.basis, unet.call_ms, unet.source, unet.off_engine) == ("measured", 3.0, "a phone", {"gather": 1})
    assert sum(block.milliseconds for block in unet.blocks) == pytest.approx(3.0)
    assert found.label == "estimated, 1 of 3 components measured"
    everything = {part.name: MeasuredTime(milliseconds=1.0, source="a phone") for part in parts}
    assert report(parts, measured=everything).label == "measured"


def test_device_factors_scale_estimates(parts: list[Part]) -> None:
    factors = DeviceFactors(created_at=now(), device=PHONE.id, factors={"unet": 2.0}, sources=("a phone",))
    plain, scaled = report(parts), report(parts, factors=factors)
    for before, after in zip(plain.components, scaled.components, strict=True):
        assert after.call_ms == pytest.approx(2 * before.call_ms)
        assert after.basis == "estimated, scaled"


def test_core_mls_own_costs_divide_the_time_between_blocks(parts: list[Part]) -> None:
    unet = next(part for part in parts if part.name == "unet")
    (program,) = unet.programs
    conv = next(one for one in program.operations if one.outputs[0][0] == "down_blocks_0_resnets_0_conv1")
    plan = ComputePlan(
        package=program.package.name,
        machine="a Mac",
        compute_unit="CPU_AND_NE",
        operations=(
            PlannedOperation(output=conv.outputs[0][0], operator="conv", preferred="neural_engine", cost=0.75),
            PlannedOperation(output="conv_in", operator="conv", preferred="cpu", cost=0.25),
        ),
    )
    found = report([unet], plans={"unet": plan})
    shares = {block.block: block.share for block in found.components[0].blocks if block.share}
    assert shares == pytest.approx({"down_blocks.0.resnets.0": 0.75, "conv_in": 0.25})
    assert found.components[0].off_engine == {"conv": 1}


def test_chunks_add_up_like_the_whole(parts: list[Part]) -> None:
    unet = next(part for part in parts if part.name == "unet")
    twice = Part("unet", unet.programs * 2, unet.calls)
    once = report([unet]).components[0]
    doubled = report([twice]).components[0]
    assert doubled.call_ms == pytest.approx(2 * once.call_ms)
    assert doubled.dispatches == 2 * once.dispatches
