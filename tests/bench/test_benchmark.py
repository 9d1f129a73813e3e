"""`sfmobile.bench`."""

from __future__ import annotations

import pytest

import sfmobile
from sfmobile.bundle.directory import Bundle
from sfmobile.errors import UsageError


def test_bench_measures_what_a_pipeline_would_run(tiny_bundle: Bundle) -> None:
    report = sfmobile.bench(tiny_bundle, predictions=2, loop=False)
    assert report.runtime.kind == "mil" and report.components["unet"].predictions == 2 and report.loop is None
    assert "on mil fp32" in str(report) and "cold load" in str(report)
    with pytest.raises(UsageError, match="0 predictions"):
        sfmobile.bench(tiny_bundle, predictions=0)
