from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from sfmobile.checkpoint.config import text_encoder_config
from sfmobile.nets.attention import ATTENTION_FORMS, AttentionForm, set_attention_form
from sfmobile.nets.layout import SD15_TEXT_ENCODER, SDXL_TEXT_ENCODER_2
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


@pytest.mark.parametrize("skipped", [0, 1])
@pytest.mark.parametrize("end", [None, 599], ids=["largest-id", "end-token"])
def test_penultimate_states_and_what_is_pooled_are_transformers(end: int | None, skipped: int) -> None:
    whole = replace(TINY_TEXT_ENCODER, layers=3, activation="gelu", projection=20, end_token=end)
    stored = TextEncoder(whole)
    randomise(stored)
    config = {key: value for key, value in text_encoder_config(whole).items() if key != "model_type"}
    theirs = give_weights("text_encoder", stored, CLIPTextModelWithProjection(CLIPTextConfig(**config)))
    ours = TextEncoder(replace(whole, state_layers=2 - skipped, final_norm=False))
    ours.load_state_dict(stored.state_dict())
    ours.eval().requires_grad_(False)
    ids = token_ids() % 599
    ids[0, 30], ids[0, 50], ids[1, 76] = 599, 599, 599
    expected = theirs(ids, output_hidden_states=True)
    states, pooled = ours(ids.int())
    assert agreement_db(as_context(expected.hidden_states[-2 - skipped]), states) >= PARITY_DB
    assert agreement_db(expected.text_embeds, pooled.flatten(1)) >= PARITY_DB
    # A prompt whose end was cut off is pooled at its first place by the token, and at its largest id without.
    assert agreement_db(theirs(ids % 599).text_embeds, ours(ids % 599)[1].flatten(1)) >= PARITY_DB


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


def test_parameter_count_of_openclip_vit_big_g() -> None:
    with torch.device("meta"):
        net = TextEncoder(SDXL_TEXT_ENCODER_2)
    assert sum(parameter.numel() for parameter in net.parameters()) == 694_659_840
