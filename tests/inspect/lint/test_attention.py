from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb

from sfmobile.bundle.choices import Target
from sfmobile.bundle.manifest import TensorRecord
from sfmobile.export.lowering import lower, trace
from sfmobile.inspect.lint.linter import lint
from sfmobile.inspect.lint.subject import Subject
from sfmobile.mlpackage.program import load_program
from sfmobile.nets.attention import Attention, AttentionForm, set_attention_form
from tests.inspect.lint.programs import broken, half
from tests.runtime.mil.programs import save_program


def rules_of(tmp_path: Any, form: AttentionForm, tokens: int = 64, target: Target = "ios17") -> set[str]:
    """Rules that an attention block of our own breaks in the given form."""
    net = torch.nn.Sequential(Attention(64, heads=2)).half()
    set_attention_form(net, form)
    records = [TensorRecord(name="x", shape=(1, 64, 1, tokens), dtype="float16")]
    out = [TensorRecord(name="out", shape=(1, 64, 1, tokens), dtype="float16")]
    program = lower(trace(net, records), records, out, target)
    package = save_program(program, tmp_path, target)
    return {finding.rule for finding in lint(Subject(load_program(package)), "program")}


def test_split_attention_is_clean_and_whole_attention_is_not(tmp_path: Any) -> None:
    assert rules_of(tmp_path / "a", "split-einsum") == set()
    assert rules_of(tmp_path / "b", "original") == {"whole-attention"}


def test_the_fused_operation_of_ios18_is_whole_attention_too(tmp_path: Any) -> None:
    assert "whole-attention" in rules_of(tmp_path, "original", target="ios18")


def test_queries_in_chunks_are_what_long_sequences_need(tmp_path: Any) -> None:
    assert "long-queries" in rules_of(tmp_path / "a", "split-einsum", tokens=1536)
    assert "long-queries" not in rules_of(tmp_path / "b", "split-einsum-v2", tokens=1536)


@pytest.mark.parametrize(("heads", "found"), [(1, False), (4, True)])
def test_several_heads_at_once_are_found_through_scale_and_mask(heads: int, found: bool) -> None:
    def body(x: Any) -> Any:
        split = mb.reshape(x=x, shape=(1, heads, 64 // heads, 32))
        scores = mb.matmul(x=split, y=split, transpose_x=True)
        scores = mb.add(x=mb.mul(x=scores, y=np.float16(0.5)), y=half(32, 32))
        return mb.matmul(x=split, y=mb.softmax(x=scores, axis=-1), transpose_y=True)

    assert ("whole-attention" in broken(body, half(1, 64, 1, 32))) is found


def test_a_softmax_that_is_no_attention_is_left_alone() -> None:
    assert broken(lambda x: mb.softmax(x=x, axis=-1), half(4, 8, 32, 32)) == {}
