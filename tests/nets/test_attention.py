from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfmobile.errors import UsageError
from sfmobile.nets.attention import QUERY_CHUNK, Attention, AttentionForm, set_attention_form
from tests.nets.oracles import agreement_db, randomise, seeded


@given(
    heads=st.integers(1, 4),
    head_dim=st.integers(1, 9),
    queries=st.integers(1, 40),
    keys=st.integers(1, 40),
    batch=st.integers(1, 3),
    form=st.sampled_from(["split-einsum", "split-einsum-v2"]),
)
@settings(deadline=None, max_examples=40)
def test_all_forms_compute_the_same_attention(
    heads: int, head_dim: int, queries: int, keys: int, batch: int, form: AttentionForm
) -> None:
    attention = Attention(heads * head_dim, heads, context_channels=5)
    randomise(attention)
    x, context = seeded(batch, heads * head_dim, 1, queries), seeded(batch, 5, 1, keys, seed=1)
    expected = attention(x, context)
    set_attention_form(attention, form)
    assert agreement_db(expected, attention(x, context)) >= 100


@pytest.mark.parametrize("queries", [QUERY_CHUNK, QUERY_CHUNK + 1, 2 * QUERY_CHUNK + 100])
def test_chunks_cover_every_query_under_a_mask(queries: int) -> None:
    attention = Attention(8, 2, qkv_bias=True)
    randomise(attention)
    x = seeded(1, 8, 1, queries)
    mask = torch.full((queries, queries), -3e4).triu(1)
    expected = attention(x, mask=mask)
    set_attention_form(attention, "split-einsum-v2")
    assert agreement_db(expected, attention(x, mask=mask)) >= 100


def test_an_unknown_form_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="'flash' is unknown; expected one of original, split-einsum"):
        set_attention_form(Attention(8, 2), "flash")  # type: ignore[arg-type]


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(UsageError, match="10 channels can't be split into 4 heads"):
        Attention(10, 4)
