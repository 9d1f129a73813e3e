from __future__ import annotations

from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb

from tests.inspect.lint.programs import broken, conv, findings, half


def test_a_convolution_in_the_engines_layout_breaks_no_rule() -> None:
    assert broken(lambda x: mb.silu(x=conv(x, 8)), half(1, 4, 32, 32)) == {}


def test_more_than_five_axes_are_an_error() -> None:
    found = findings(lambda x: mb.relu(x=mb.reshape(x=x, shape=(1, 2, 2, 2, 2, 32))), half(1, 16, 1, 32))
    assert {finding.rule for finding in found} == {"rank-above-5"}
    assert all(finding.severity == "error" for finding in found)
    assert "6 axes, at most 5" in found[0].message


def test_an_axis_beyond_16384_is_an_error() -> None:
    assert "large-dimension" in broken(lambda x: mb.relu(x=x), half(1, 1, 1, 16416))
    assert broken(lambda x: mb.relu(x=x), half(1, 1, 1, 16384)) == {}


def test_an_unknown_dimension_is_an_error() -> None:
    import coremltools as ct
    from coremltools.converters.mil.mil import get_new_symbol, types

    from sfmobile.inspect.lint.linter import lint
    from sfmobile.inspect.lint.subject import Subject
    from sfmobile.mlpackage.program import load_program
    from tests.runtime.mil.programs import save_program

    @mb.program(
        input_specs=[mb.TensorSpec(shape=(1, 4, 1, get_new_symbol()), dtype=types.fp16)],
        opset_version=ct.target.iOS16,
    )
    def program(x: Any) -> Any:
        return mb.relu(x=x)

    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        found = lint(Subject(load_program(save_program(program, Path(folder)))), "program")
    assert [finding.rule for finding in found] == ["dynamic-shape", "dynamic-shape"]
    assert "input 'x'" in found[0].message


def test_projections_and_norms_over_the_last_axis_are_named() -> None:
    def body(x: Any) -> Any:
        normal = mb.layer_norm(x=x, axes=[-1], gamma=half(32), beta=half(32))
        return mb.matmul(x=mb.linear(x=normal, weight=half(64, 32)), y=half(64, 32))

    found = findings(body, half(1, 16, 32))
    assert [finding.kind for finding in found] == ["layer_norm", "linear", "matmul"]
    assert {finding.rule for finding in found} == {"channels-last-layout"}


def test_layer_norm_over_channels_of_the_engines_layout_is_fine() -> None:
    assert broken(lambda x: mb.layer_norm(x=x, axes=[1], gamma=half(32), beta=half(32)), half(1, 32, 1, 64)) == {}


def test_padding_counts_only_where_it_wastes_much() -> None:
    wasteful, small, aligned = half(2, 1024, 8, 8), half(2, 16, 8, 8), half(2, 1024, 1, 64)
    found = findings(lambda x: mb.relu(x=x), wasteful)
    assert [finding.rule for finding in found] == ["last-axis-padding"]
    # 2 * 1024 * 8 rows of 16 bytes, each padded to 64.
    assert "rows of 16 bytes, 786 kB of padding on 262 kB" in found[0].message
    assert broken(lambda x: mb.relu(x=x), small) == {}
    assert broken(lambda x: mb.relu(x=x), aligned) == {}


def test_a_singleton_last_axis_is_its_own_finding() -> None:
    assert broken(lambda x: mb.relu(x=x), half(1, 4096, 1, 1)) == {"singleton-last-axis": 1}
    assert broken(lambda x: mb.relu(x=x), half(1, 64, 1, 1)) == {}


def test_operands_beyond_2_mb_are_noted_at_dense_operations_only() -> None:
    large = half(1, 64, 128, 160)
    found = findings(lambda x: mb.relu(x=conv(x, 4)), large)
    assert [(finding.rule, finding.kind, finding.severity) for finding in found] == [("large-operand", "conv", "note")]
    assert "2.6 MB" in found[0].message
    assert broken(lambda x: mb.relu(x=x), large) == {}


def test_findings_name_block_operation_and_position() -> None:
    def body(x: Any) -> Any:
        return mb.conv(x=x, weight=half(4, 4, 15, 15), pad_type="same", name="down_blocks_0_resnets_1_conv1")

    (finding,) = findings(body, half(1, 4, 32, 32))
    assert finding.block == "down_blocks.0.resnets.1"
    assert finding.operation == "down_blocks_0_resnets_1_conv1"
    assert finding.position is not None
    assert np.isclose(finding.position, int(finding.position))
