from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sfmobile.nets.attention import ATTENTION_FORMS, AttentionForm, set_attention_form
from sfmobile.nets.autoencoder import Decoder, Encoder
from sfmobile.nets.layout import SD15_AUTOENCODER, SNAPFUSION_AUTOENCODER, AutoencoderLayout
from tests.nets.oracles import PARITY_DB, agreement_db, diffusers_autoencoder, give_weights, randomise, seeded
from tests.tiny import TINY_AUTOENCODER

THREE_LEVELS = replace(
    TINY_AUTOENCODER, decoder_channels=(16, 24, 40), encoder_channels=(16, 24, 40), layers_per_block=2
)


@pytest.mark.parametrize("form", ATTENTION_FORMS)
@pytest.mark.parametrize("layout", [TINY_AUTOENCODER, THREE_LEVELS], ids=["two-levels", "three-levels"])
def test_decoder_equals_diffusers(layout: AutoencoderLayout, form: AttentionForm) -> None:
    ours = Decoder(layout)
    randomise(ours)
    theirs = give_weights("decoder", ours, diffusers_autoencoder(layout))
    set_attention_form(ours, form)
    latents = seeded(2, 4, 8, 10)
    assert agreement_db(theirs.decode(latents).sample, ours(latents)) >= PARITY_DB


@pytest.mark.parametrize("layout", [TINY_AUTOENCODER, THREE_LEVELS], ids=["two-levels", "three-levels"])
def test_encoder_equals_diffusers(layout: AutoencoderLayout) -> None:
    ours = Encoder(layout)
    randomise(ours)
    theirs = give_weights("encoder", ours, diffusers_autoencoder(layout))
    image = seeded(2, 3, 32, 24)
    assert agreement_db(theirs.encode(image).latent_dist.parameters, ours(image)) >= PARITY_DB


@pytest.mark.parametrize(
    ("layout", "parameters"),
    [(SD15_AUTOENCODER, 49_490_199), (SNAPFUSION_AUTOENCODER, 12_387_479)],
    ids=["sd15", "half-width"],
)
def test_parameter_count_of_the_decoder_with_its_quantisation_convolution(
    layout: AutoencoderLayout, parameters: int
) -> None:
    with torch.device("meta"):
        net = Decoder(layout)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


def test_halving_the_decoder_leaves_the_encoder() -> None:
    half = SD15_AUTOENCODER.halved_decoder()
    assert half.decoder_channels == SNAPFUSION_AUTOENCODER.decoder_channels
    assert half.encoder_channels == SD15_AUTOENCODER.encoder_channels
    assert half.downsampling == 8
