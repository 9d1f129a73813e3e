from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sfmobile.nets.attention import ATTENTION_FORMS, AttentionForm, set_attention_form
from sfmobile.nets.layout import SD15_TEXT_ENCODER
from sfmobile.nets.text_encoder import TextEncoder, causal_mask
from tests.nets.oracles import PARITY_DB, agreement_db, as_context, clip_text_model, give_weights, randomise
from tests.tiny import TINY_TEXT_ENCODER


def token_ids(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, TINY_TEXT_ENCODER.vocabulary, (2, TINY_TEXT_ENCODER.max_length), generator=generator)


@pytest.mark.parametrize("form", ATTENTION_FORMS)
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_equals_transformers_in_every_attention_form(activation: str, form: AttentionForm) -> None:
    layout = replace(TINY_TEXT_ENCODER, activation=activation)
    ours = TextEncoder(layout)
    randomise(ours)
    theirs = give_weights("text_encoder", ours, clip_text_model(layout))
    set_attention_form(ours, form)
    ids = token_ids()
    assert agreement_db(as_context(theirs(ids).last_hidden_state), ours(ids.int())) >= PARITY_DB


@pytest.mark.parametrize("form", ATTENTION_FORMS)
def test_no_position_sees_a_later_token(form: AttentionForm) -> None:
    net = TextEncoder(TINY_TEXT_ENCODER)
    randomise(net)
    set_attention_form(net, form)
    ids = token_ids()
    changed = ids.clone()
    changed[:, 40:] = token_ids(seed=1)[:, 40:]
    before, after = net(ids), net(changed)
    torch.testing.assert_close(before[..., :40], after[..., :40], rtol=0, atol=1e-5)
    assert (before[..., 40:] - after[..., 40:]).abs().max() > 0.1


def test_the_mask_is_finite_in_fp16_and_silences_what_it_covers() -> None:
    mask = causal_mask(77).half()
    assert torch.isfinite(mask).all()
    assert mask.float().softmax(dim=-1).triu(1).max() == 0


def test_parameter_count_of_clip_vit_large() -> None:
    with torch.device("meta"):
        net = TextEncoder(SD15_TEXT_ENCODER)
    assert sum(parameter.numel() for parameter in net.parameters()) == 123_060_480
