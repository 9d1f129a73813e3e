from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.calibration import (
    Networks,
    Residual,
    _Cases,
    fit,
    fit_published,
    predict,
    read_networks,
    summarise,
)
from sfmobile.errors import ArtifactError
from sfmobile.inspect.estimate.cost import (
    Coefficients,
    SegmentRow,
    Speed,
    call_milliseconds,
    chip_speed,
    cost_model,
    estimate_call,
    row_seconds,
)
from sfmobile.inspect.estimate.devices import PublishedPoint, device_table
from sfmobile.inspect.estimate.fusion import Segment

NETWORKS_FILE = Path(__file__).parents[3] / "benchmarks" / "cost_model_data" / "networks.json"
COEFFICIENTS = Coefficients(
    spatial=0.5, pointwise=0.25, attention=0.1, bandwidth=0.5, overhead_us=2.0, dispatch_ms=0.1, chips={"A16": 1.0}
)
SPEED = Speed(flops_per_second=1e12, bytes_per_second=1e10)


@pytest.fixture(scope="module")
def networks() -> Networks:
    return read_networks(NETWORKS_FILE)


def row(**changes: int) -> SegmentRow:
    values = {"spatial": 0, "pointwise": 0, "attention": 0, "weight_bytes": 0, "streamed_bytes": 0}
    return SegmentRow(**{**values, **changes}, fallback=False, repeats=1)


def test_a_segment_takes_its_arithmetic_or_its_memory_whichever_is_longer() -> None:
    overhead = 2e-6
    # 2 * 1e9 operations at 1e12 * 0.5 per second.
    assert row_seconds(row(spatial=10**9), COEFFICIENTS, SPEED) == (pytest.approx(4e-3 + overhead), "arithmetic")
    # 1e8 bytes at 1e10 * 0.5 per second.
    assert row_seconds(row(streamed_bytes=10**8), COEFFICIENTS, SPEED) == (pytest.approx(2e-2 + overhead), "memory")
    both = row(spatial=10**9, streamed_bytes=10**8)
    assert row_seconds(both, COEFFICIENTS, SPEED)[0] == pytest.approx(2e-2 + overhead)


def test_kinds_of_products_have_their_own_efficiency() -> None:
    times = [
        row_seconds(row(**{kind: 10**9}), COEFFICIENTS, SPEED)[0] for kind in ("spatial", "pointwise", "attention")
    ]
    assert times[0] < times[1] < times[2]


def test_palettized_weights_take_less_memory_time() -> None:
    rows = [row(weight_bytes=10**8)]
    full = call_milliseconds(rows, COEFFICIENTS, SPEED)
    packed = call_milliseconds(rows, COEFFICIENTS, SPEED, weight_scale=6 / 16)
    assert packed - 0.1 == pytest.approx((full - 0.1) * 6 / 16, rel=1e-3)


def test_dispatches_and_blocks_add_up_to_the_call() -> None:
    segments = [
        Segment("a", macs={"spatial": 10**9}),
        Segment("b", fallback=True, streamed_bytes=10**6),
        Segment("a", macs={"pointwise": 10**8}),
    ]
    call = estimate_call(segments, "A16")
    assert call.dispatches == 3
    assert [block.block for block in call.blocks] == ["a", "b"]
    assert call.milliseconds == pytest.approx(sum(block.milliseconds for block in call.blocks) + call.dispatch_ms)
    assert set(call.blocks[1].by_bound) == {"cpu"}


def test_a_chip_like_another_has_its_rate_times_the_factor() -> None:
    coefficients = cost_model().coefficients
    base, other = chip_speed("A16", coefficients), chip_speed("A17 Pro", coefficients)
    assert other.flops_per_second == pytest.approx(base.flops_per_second * 1.06)
    assert chip_speed("M2", coefficients).bytes_per_second == 102.4e9


def test_the_shipped_model_is_what_the_published_points_give(networks: Networks) -> None:
    fitted, shipped = fit_published(networks), cost_model()
    assert fitted.errors == shipped.errors
    for name in ("spatial", "pointwise", "attention", "bandwidth", "overhead_us"):
        assert getattr(fitted.coefficients, name) == pytest.approx(getattr(shipped.coefficients, name), rel=1e-3)
    assert fitted.coefficients.chips == pytest.approx(shipped.coefficients.chips, rel=1e-3)


def test_the_models_error_on_what_it_did_not_see_is_below_that_of_arithmetic_alone(networks: Networks) -> None:
    table = device_table()
    points = [point for point in table.published if point.calibrates]

    def flops(point: PublishedPoint) -> float:
        return 2.0 * sum(one.repeats * sum(one[:3]) for one in networks[point.network])

    def chip(point: PublishedPoint) -> str:
        return table.base_chip(table.find(point.device).chip)[0]

    naive = []
    for point in points:
        seen = [one for one in points if one.network != point.network]
        own = [one for one in seen if chip(one) == chip(point)] or seen
        rate = math.exp(np.mean([math.log(flops(one) / one.milliseconds) for one in own]))
        naive.append(Residual(point, flops(point) / rate))
    errors = cost_model().errors
    assert errors.network_left_out.median_percent < summarise(naive).median_percent
    assert errors.network_left_out.worst_percent < summarise(naive).worst_percent
    assert errors.fitted.median_percent < errors.point_left_out.median_percent < 20


def test_a_fit_finds_the_constants_that_made_its_points(networks: Networks) -> None:
    table = device_table()
    truth = cost_model().coefficients.model_copy(update={"bandwidth": 0.5, "overhead_us": 0.2})
    points = [
        point.model_copy(update={"milliseconds": predict(point, truth, networks, table)})
        for point in table.published
        if point.calibrates
    ]
    found = fit(points, networks, table)
    for point in points:
        assert predict(point, found, networks, table) == pytest.approx(point.milliseconds, rel=0.05)


def test_the_arrays_of_a_fit_predict_what_the_model_predicts(networks: Networks) -> None:
    table = device_table()
    points = [point for point in table.published if point.calibrates]
    shipped = cost_model().coefficients
    chips = sorted(shipped.chips)
    logs = [0.0, math.log(shipped.spatial), math.log(shipped.pointwise), math.log(shipped.attention)]
    logs += [
        math.log(shipped.bandwidth),
        math.log(shipped.overhead_us),
        *(math.log(shipped.chips[one]) for one in chips),
    ]
    found = _Cases(points, networks, table, chips).milliseconds(np.array(logs))
    expected = [predict(point, shipped, networks, table) for point in points]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_errors_are_factors_whichever_way_they_go() -> None:
    point = device_table().published[0].model_copy(update={"milliseconds": 100.0})
    found = summarise([Residual(point, 200.0), Residual(point, 50.0), Residual(point, 110.0)])
    assert (found.median_percent, found.worst_percent, found.points) == (100.0, 100.0, 3)


def test_segment_tables_that_are_none_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "networks.json"
    for content in ("{", "[]", '{"networks": {"a": [[1, 2]]}}'):
        broken.write_text(content)
        with pytest.raises(ArtifactError, match="holds no segment tables"):
            read_networks(broken)
    with pytest.raises(ArtifactError, match="holds no segment tables"):
        read_networks(tmp_path / "absent.json")
