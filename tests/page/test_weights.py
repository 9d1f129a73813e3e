from __future__ import annotations

import pytest

from sfmobile.inspect.operations.op_table import Weight
from sfmobile.page.weights import SMALL_WEIGHT, StoredWeight, by_package

LARGE = Weight("kernel", (SMALL_WEIGHT, 1), "fp16", 6, SMALL_WEIGHT, True)
SMALL = Weight("bias", (SMALL_WEIGHT - 1,), "fp16", 16, 2 * (SMALL_WEIGHT - 1), False)


def test_a_packages_small_weights_are_one_sum_and_its_large_ones_stand_alone() -> None:
    stored = [StoredWeight("unet", "conv_in", LARGE), StoredWeight("unet", "conv_in", SMALL)]
    (package,) = by_package(stored)
    assert package.large == (stored[0],)
    assert (package.small.count, package.small.values, package.small.bits) == (1, SMALL_WEIGHT - 1, 16)
    assert (package.all.count, package.all.values) == (2, 2 * SMALL_WEIGHT - 1)
    # Eight stored bits a value of the one, sixteen of the other.
    assert package.all.bits == pytest.approx(12, abs=0.01)
    assert package.all.palettized == pytest.approx(0.5, abs=0.01)


def test_packages_keep_the_order_they_are_read_in() -> None:
    stored = [StoredWeight(name, "", LARGE) for name in ("unet 1/2", "decoder", "unet 1/2")]
    assert [(package.name, package.all.count) for package in by_package(stored)] == [("unet 1/2", 2), ("decoder", 1)]
    assert by_package(stored[:1])[0].small.bits == 0
