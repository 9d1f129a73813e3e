from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from sfmobile.inspect.lint.linter import lint
from sfmobile.inspect.lint.subject import Subject
from sfmobile.mlpackage.program import load_program
from tests.inspect.lint.programs import broken, conv, findings, half


@pytest.mark.parametrize("operation", ["sin", "cos"])
def test_trigonometry_runs_on_the_cpu(operation: str) -> None:
    (finding,) = findings(lambda x: getattr(mb, operation)(x=x), half(1, 4, 1, 32))
    assert (finding.rule, finding.kind) == ("cpu-operation", operation)


@pytest.mark.parametrize(("stride", "fine"), [(1, True), (2, True), (3, True), (6, True), (5, False), (7, False)])
def test_strides_are_products_of_2_and_3(stride: int, fine: bool) -> None:
    found = broken(lambda x: conv(x, 4, strides=[stride, stride]), half(1, 4, 64, 64))
    assert ("convolution-stride" in found) is not fine


def test_a_palettized_kernel_takes_strides_up_to_2() -> None:
    def body(stride: int) -> dict[str, int]:
        def program(x: Any) -> Any:
            indices = np.zeros(4 * 4 * 3 * 3 // 2, np.uint8)
            weight = mb.constexpr_lut_to_dense(
                indices=indices, lut=np.arange(16, dtype=np.float16), shape=np.array([4, 4, 3, 3], np.uint32)
            )
            return mb.conv(x=x, weight=weight, strides=[stride, stride], pad_type="same")

        return broken(program, half(1, 4, 64, 64))

    assert "convolution-stride" not in body(2)
    assert "convolution-stride" in body(3)


def test_kernels_up_to_13_wide_are_fine() -> None:
    assert "kernel-width" not in broken(lambda x: conv(x, 4, kernel=13), half(1, 4, 32, 32))
    assert "kernel-width" in broken(lambda x: conv(x, 4, kernel=15), half(1, 4, 32, 32))


def test_upsampling_by_2_is_fine_and_by_4_is_not() -> None:
    def upsampled(factor: int) -> dict[str, int]:
        return broken(
            lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=factor, scale_factor_width=factor),
            half(1, 4, 32, 32),
        )

    assert upsampled(2) == {}
    assert upsampled(4) == {"upsample-factor": 1}


@pytest.mark.parametrize(
    ("perms", "count"),
    [
        ([(0, 1, 2, 3)], 1),  # the identity
        ([(0, 2, 1, 3)], 1),  # only the axis of length 1 moves
        ([(0, 3, 2, 1)], 0),
        ([(0, 3, 2, 1), (0, 3, 2, 1)], 1),  # undone by the next
    ],
)
def test_transposes_that_could_be_spared(perms: list[tuple[int, ...]], count: int) -> None:
    def body(x: Any) -> Any:
        for perm in perms:
            x = mb.transpose(x=x, perm=perm)
        return x

    assert broken(body, half(1, 8, 1, 32)).get("needless-transpose", 0) == count


def test_reshapes_that_could_be_spared() -> None:
    def twice(x: Any) -> Any:
        return mb.reshape(x=mb.reshape(x=x, shape=(1, 4, 8, 32)), shape=(1, 2, 16, 32))

    assert broken(twice, half(1, 32, 1, 32)) == {"needless-reshape": 1}
    assert broken(lambda x: mb.reshape(x=x, shape=(1, 32, 1, 32)), half(1, 32, 1, 32)) == {"needless-reshape": 1}
    assert broken(lambda x: mb.reshape(x=x, shape=(1, 4, 8, 32)), half(1, 32, 1, 32)) == {}


def test_moves_of_the_last_axis_are_noted_where_they_are_large() -> None:
    def body(x: Any) -> Any:
        return mb.transpose(x=x, perm=(0, 3, 2, 1))

    assert broken(body, half(1, 256, 1, 256)) == {"last-axis-move": 1}
    assert broken(body, half(1, 32, 1, 64)) == {}
    # GroupNorm's reshape keeps the last axis: nothing moves.
    assert broken(lambda x: mb.reshape(x=x, shape=(1, 32, 8 * 32, 32)), half(1, 256, 32, 32)) == {}


def test_a_weight_left_out_of_palettization_is_found(tiny_bundle: Any, tiny_palettized_bundle: Any) -> None:
    def uncompressed(bundle: Any, **known: Any) -> list[str]:
        subject = Subject(load_program(bundle.package("unet")), **known)
        return [one.message for one in lint(subject, "unet") if one.rule == "uncompressed-weight"]

    assert uncompressed(tiny_palettized_bundle, palettized=True) == []
    missed = uncompressed(tiny_bundle, palettized=True)
    assert any("down_blocks_0_resnets_0_conv1_weight" in message for message in missed)
    assert uncompressed(tiny_bundle, palettized=False) == []


def test_a_weight_the_recipe_leaves_at_16_bits_is_no_finding(tiny_bundle: Any) -> None:
    subject = Subject(load_program(tiny_bundle.package("unet")), palettized=True)
    everything = frozenset(subject.program.constants)
    kept = Subject(subject.program, palettized=True, full_width=everything)
    assert "uncompressed-weight" in {finding.rule for finding in lint(subject, "unet")}
    assert "uncompressed-weight" not in {finding.rule for finding in lint(kept, "unet")}
