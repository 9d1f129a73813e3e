"""Every key that diffusers and transformers read of a config: one that changes their result is refused or changes ours.

Each key of a class's own argument list is given other values, one at a time. A key that a newer release adds has none
here, and fails.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sfmobile.bundle.pipeline import AddedEmbeddingCondition
from sfmobile.bundle.samplers import DDIMRecord, SamplerRecord
from sfmobile.checkpoint.config import (
    added_embedding,
    autoencoder_layout,
    pooled_layout,
    text_encoder_layout,
    time_embedding,
    unet_layout,
)
from sfmobile.checkpoint.scheduler import OWN, read_sampler
from sfmobile.checkpoint.weights import StoredWeights, read_weights
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.nets.autoencoder import Decoder, Encoder
from sfmobile.nets.layout import AutoencoderLayout, TinyAutoencoderLayout
from sfmobile.nets.text_encoder import TextEncoder
from sfmobile.nets.tiny_autoencoder import TinyDecoder
from sfmobile.nets.unet import ConditionedUNet, UNet
from sfmobile.sampling.samplers.starting import start
from sfmobile.sampling.sizes import added_embedding as added_of
from sfmobile.sampling.time_embedding import guidance_sinusoid, sinusoid
from sfmobile.verify.diffusers_reference import _walk_own_list
from tests.checkpoint.test_scheduler import STABLE_DIFFUSION, write
from tests.nets.oracles import PARITY_DB, agreement_db, randomise, seeded

FILE = Path("config.json")
UNET: dict[str, Any] = {
    "sample_size": 4,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "cross_attention_dim": 8,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
UNET_VALUES: dict[str, list[Any]] = {
    "sample_size": [8, [4, 8]],
    "in_channels": [5],
    "out_channels": [5],
    "center_input_sample": [True],
    "flip_sin_to_cos": [False],
    "freq_shift": [1],
    "down_block_types": [["DownBlock2D", "CrossAttnDownBlock2D"], ["SimpleCrossAttnDownBlock2D", "DownBlock2D"]],
    "mid_block_type": [None, "UNetMidBlock2D", "UNetMidBlock2DSimpleCrossAttn"],
    "up_block_types": [["UpBlock2D", "UpBlock2D"], ["ResnetUpsampleBlock2D", "UpBlock2D"]],
    "only_cross_attention": [True, [True, False]],
    "block_out_channels": [[8, 24]],
    "layers_per_block": [2, [1, 2]],
    "downsample_padding": [0],
    "mid_block_scale_factor": [2],
    "dropout": [0.5],
    "act_fn": ["gelu", "mish", "relu"],
    "norm_num_groups": [2],
    "norm_eps": [1e-3],
    "cross_attention_dim": [12, [8, 8]],
    "transformer_layers_per_block": [2, [1, 2]],
    "reverse_transformer_layers_per_block": [[1, 1], [2, 1]],
    "encoder_hid_dim": [12],
    "encoder_hid_dim_type": ["text_proj"],
    "attention_head_dim": [4, [2, 4]],
    "num_attention_heads": [4],
    "dual_cross_attention": [True],
    "use_linear_projection": [True],
    "class_embed_type": ["timestep", "identity"],
    "addition_embed_type": ["text"],
    "addition_time_embed_dim": [8],
    "num_class_embeds": [4],
    "upcast_attention": [True],
    "resnet_time_scale_shift": ["scale_shift"],
    "resnet_skip_time_act": [True],
    "resnet_out_scale_factor": [2.0],
    "time_embedding_type": ["fourier"],
    "time_embedding_dim": [64],
    "time_embedding_act_fn": ["silu"],
    "timestep_post_act": ["silu"],
    "time_cond_proj_dim": [8],
    "conv_in_kernel": [1],
    "conv_out_kernel": [1],
    "projection_class_embeddings_input_dim": [8],
    "attention_type": ["gated"],
    "class_embeddings_concat": [True],
    "mid_block_only_cross_attention": [True],
    "cross_attention_norm": ["layer_norm", "group_norm"],
    "addition_embed_type_num_heads": [32],
}
AUTOENCODER: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [4, 8],
    "norm_num_groups": 4,
}
AUTOENCODER_VALUES: dict[str, list[Any]] = {
    "in_channels": [4],
    "out_channels": [4],
    "down_block_types": [["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]],
    "up_block_types": [["UpDecoderBlock2D", "AttnUpDecoderBlock2D"]],
    "block_out_channels": [[8, 4]],
    "layers_per_block": [2],
    "act_fn": ["relu"],
    "latent_channels": [8],
    "norm_num_groups": [2],
    "sample_size": [64],
    "scaling_factor": [0.13025],
    "shift_factor": [0.1],
    "latents_mean": [[0.1] * 4],
    "latents_std": [[2.0] * 4],
    "force_upcast": [False],
    "use_quant_conv": [False],
    "use_post_quant_conv": [False],
    "mid_block_add_attention": [False],
}
TINY: dict[str, Any] = {
    "encoder_block_out_channels": [8, 8],
    "decoder_block_out_channels": [8, 8],
    "num_encoder_blocks": [1, 1],
    "num_decoder_blocks": [1, 1],
}
TINY_VALUES: dict[str, list[Any]] = {
    "in_channels": [4],
    "out_channels": [4],
    "encoder_block_out_channels": [[8, 16]],
    "decoder_block_out_channels": [[16, 16], [8, 16]],
    "act_fn": ["silu"],
    "upsample_fn": ["bilinear"],
    "latent_channels": [16],
    "upsampling_scaling_factor": [4],
    "num_encoder_blocks": [[1, 2]],
    "num_decoder_blocks": [[2, 1]],
    "latent_magnitude": [2],
    "latent_shift": [0.25],
    "force_upcast": [True],
    "scaling_factor": [0.5],
    "shift_factor": [0.1],
}
CLIP: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 6,
    "bos_token_id": 38,
    "eos_token_id": 39,
}
# Stable Diffusion XL's.
XL_UNET: dict[str, Any] = {
    **UNET,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 + 6 * 4,
}
XL_VALUES: dict[str, list[Any]] = {
    **UNET_VALUES,
    "down_block_types": [["CrossAttnDownBlock2D", "DownBlock2D"]],
    "up_block_types": [["UpBlock2D", "CrossAttnUpBlock2D"]],
    "transformer_layers_per_block": [1, 3, [1, 3], [2, [1]], [1, [2], 3]],
    "reverse_transformer_layers_per_block": [[2, 1], [[1, 2], 1], [[1], 1], [[2, 1, 1], 1]],
    "addition_embed_type": ["text", "text_image", "image", None],
    "addition_time_embed_dim": [2, 3, None],
    "projection_class_embeddings_input_dim": [28, 24, None],
}
CLIP_VALUES: dict[str, list[Any]] = {
    "vocab_size": [50],
    "hidden_size": [16],
    "intermediate_size": [20],
    "projection_dim": [20],
    "num_hidden_layers": [1, 3],
    "num_attention_heads": [4],
    "max_position_embeddings": [9],
    "hidden_act": ["gelu", "gelu_new", "relu", "silu"],
    "layer_norm_eps": [1e-2],
    "attention_dropout": [0.5],
    "initializer_range": [0.5],
    "initializer_factor": [2.0],
    "pad_token_id": [0],
    "bos_token_id": [2],
    "eos_token_id": [2],
    "chunk_size_feed_forward": [1],
    "is_encoder_decoder": [True],
}
# Of every config of transformers: names, and what a call returns beside its result.
BOOKKEEPING = {
    *("transformers_version", "architectures", "_name_or_path", "model_type", "dtype", "problem_type", "id2label"),
    *("label2id", "output_hidden_states", "output_attentions", "return_dict"),
}


class Held(StoredWeights):
    """A network's own weights, as if a file held them."""

    def __init__(self, net: torch.nn.Module) -> None:
        self.folder = FILE.parent
        self._weights = net.state_dict()

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._weights[name].shape)

    def file(self, name: str) -> Path:
        return FILE


def arguments(kind: type) -> set[str]:
    return set(inspect.signature(kind.__init__).parameters) - {"self", "kwargs"}


def cases(values: dict[str, list[Any]]) -> list[Any]:
    return [pytest.param(key, value, id=f"{key}={value}") for key, found in values.items() for value in found]


def with_weights(part: str, ours: torch.nn.Module, theirs: torch.nn.Module) -> torch.nn.Module:
    """Our network with their weights; raises `ArtifactError` if they aren't its own."""
    randomise(theirs)
    shapes = {key: tuple(value.shape) for key, value in ours.state_dict().items()}
    ours.load_state_dict(read_weights(part, Held(theirs), shapes))
    return ours.eval().requires_grad_(False)


def test_every_key_of_every_class_has_another_value_here() -> None:
    assert set(UNET_VALUES) == arguments(diffusers.UNet2DConditionModel)
    assert set(AUTOENCODER_VALUES) == arguments(diffusers.AutoencoderKL)
    assert set(TINY_VALUES) == arguments(diffusers.AutoencoderTiny)
    assert set(CLIP_VALUES) == set(CLIPTextConfig().to_dict()) - BOOKKEEPING
    assert set(SCHEDULER_VALUES) == {key for name in OWN for key in arguments(getattr(diffusers, name))}


@pytest.mark.parametrize(("key", "value"), cases(UNET_VALUES))
def test_a_unets_key_is_refused_or_changes_it_as_in_diffusers(key: str, value: Any) -> None:
    config = {**UNET, key: value}
    try:
        layout = unet_layout(config, FILE)
        theirs = diffusers.UNet2DConditionModel(**config)
        ours = with_weights("unet", UNet(layout), theirs)
    except ArtifactError:
        return
    latents, states = seeded(1, layout.in_channels, 4, 4), seeded(1, layout.cross_attention_dim, 1, 5)
    embedding = torch.from_numpy(sinusoid([981], time_embedding(config, layout, FILE)))
    width = layout.guidance_embedding_dim
    guidance = [] if width is None else [torch.from_numpy(guidance_sinusoid(8.5, width))]
    condition = guidance[0].flatten(1) if guidance else None
    expected = theirs(latents, 981, states.squeeze(2).transpose(1, 2), timestep_cond=condition).sample
    assert agreement_db(expected, ours(latents, embedding, states, *guidance)) >= PARITY_DB


@pytest.mark.parametrize(("key", "value"), cases(XL_VALUES))
def test_an_xl_unets_key_is_refused_or_changes_it_as_in_diffusers(key: str, value: Any) -> None:
    config = {**XL_UNET, key: value}
    try:
        layout = unet_layout(config, FILE)
        theirs = diffusers.UNet2DConditionModel(**config)
        ours = with_weights("unet", ConditionedUNet(layout), theirs)
    except ArtifactError:
        return
    sizes = added_embedding(config, layout, FILE)
    latents, states = seeded(1, layout.in_channels, 4, 4), seeded(1, layout.cross_attention_dim, 1, 5)
    record = time_embedding(config, layout, FILE)
    inputs = {"latents": latents, "time_embedding": torch.from_numpy(sinusoid([981], record))}
    guidance = layout.guidance_embedding_dim
    if guidance is not None:
        inputs["guidance_embedding"] = torch.from_numpy(guidance_sinusoid(8.5, guidance))
    told: dict[str, Any] = {}
    if sizes is not None:
        pooled, numbers = seeded(1, sizes[0], seed=1), (64, 96, 0, 8, 32, 48)
        condition = AddedEmbeddingCondition(component="text_encoder_2", pooled=sizes[0], dimension=sizes[1])
        added = added_of(condition, pooled.numpy()[:, :, None, None], numbers, record)
        inputs["added_embedding"] = torch.from_numpy(added)
        told = {"text_embeds": pooled, "time_ids": torch.tensor([numbers], dtype=torch.float32)}
    expected = theirs(
        latents,
        981,
        states.squeeze(2).transpose(1, 2),
        timestep_cond=None if guidance is None else inputs["guidance_embedding"].flatten(1),
        added_cond_kwargs=told,
    ).sample
    assert agreement_db(expected, ours(encoder_hidden_states=states, **inputs)) >= PARITY_DB


@pytest.mark.parametrize(("key", "value"), cases(AUTOENCODER_VALUES))
def test_an_autoencoders_key_is_refused_or_changes_it_as_in_diffusers(key: str, value: Any) -> None:
    config = {**AUTOENCODER, key: value}
    try:
        layout = autoencoder_layout(config, FILE)
        assert isinstance(layout, AutoencoderLayout)
        theirs = diffusers.AutoencoderKL(**config)
        decoder = with_weights("decoder", Decoder(layout), theirs)
        encoder = with_weights("encoder", Encoder(layout), theirs)
    except ArtifactError:
        return
    assert layout.scaling_factor == theirs.config.scaling_factor
    latents, image = seeded(1, layout.latent_channels, 4, 4), seeded(1, 3, 8, 8)
    assert agreement_db(theirs.decode(latents).sample, decoder(latents)) >= PARITY_DB
    assert agreement_db(theirs.encode(image).latent_dist.parameters, encoder(image)) >= PARITY_DB


@pytest.mark.parametrize(("key", "value"), cases(TINY_VALUES))
def test_a_tiny_autoencoders_key_is_refused_or_changes_it_as_in_diffusers(key: str, value: Any) -> None:
    config = {**TINY, key: value}
    try:
        layout = autoencoder_layout({**config, "_class_name": "AutoencoderTiny"}, FILE)
        assert isinstance(layout, TinyAutoencoderLayout)
        theirs = diffusers.AutoencoderTiny(**config)
        ours = with_weights("decoder", TinyDecoder(layout), theirs)
    except ArtifactError:
        return
    assert layout.scaling_factor == theirs.config.scaling_factor
    latents = seeded(1, layout.latent_channels, 4, 4)
    assert agreement_db(theirs.decode(latents).sample, ours(latents)) >= PARITY_DB


@pytest.mark.parametrize(("key", "value"), cases(CLIP_VALUES))
def test_a_projecting_text_encoders_key_is_refused_or_changes_it_as_in_transformers(key: str, value: Any) -> None:
    config = {**CLIP, "projection_dim": 12, key: value}
    try:
        layout = replace(pooled_layout(config, FILE), state_layers=config["num_hidden_layers"] - 1, final_norm=False)
        theirs = CLIPTextModelWithProjection(CLIPTextConfig(**config))
        ours = with_weights("text_encoder", TextEncoder(layout), theirs)
    except ArtifactError:
        return
    ids = torch.arange(layout.max_length)[None] * 13 % layout.vocabulary
    assert 39 in ids.tolist()[0] and ids[0, -1] != 39
    expected = theirs(ids, output_hidden_states=True)
    states, pooled = ours(ids)
    assert agreement_db(expected.hidden_states[-2].transpose(1, 2).unsqueeze(2), states) >= PARITY_DB
    assert agreement_db(expected.text_embeds, pooled.flatten(1)) >= PARITY_DB


@pytest.mark.parametrize(("key", "value"), cases(CLIP_VALUES))
def test_a_text_encoders_key_is_refused_or_changes_it_as_in_transformers(key: str, value: Any) -> None:
    config = {**CLIP, key: value}
    try:
        layout = text_encoder_layout(config, FILE)
        theirs = CLIPTextModel(CLIPTextConfig(**config))
        ours = with_weights("text_encoder", TextEncoder(layout), theirs)
    except ArtifactError:
        return
    ids = torch.arange(layout.max_length)[None] % layout.vocabulary
    expected = theirs(ids).last_hidden_state.transpose(1, 2).unsqueeze(2)
    assert agreement_db(expected, ours(ids)) >= PARITY_DB


SCHEDULER_VALUES: dict[str, list[Any]] = {
    "num_train_timesteps": [500],
    "beta_start": [0.001],
    "beta_end": [0.03],
    "beta_schedule": ["linear", "scaled_linear", "squaredcos_cap_v2"],
    "trained_betas": [np.linspace(0.001, 0.02, 1000).tolist()],
    "clip_sample": [True, False],
    "clip_sample_range": [0.5],
    "set_alpha_to_one": [True, False],
    "steps_offset": [0, 3],
    "prediction_type": ["v_prediction", "sample"],
    "thresholding": [True],
    "dynamic_thresholding_ratio": [0.5],
    "sample_max_value": [0.5],
    "timestep_spacing": ["leading", "trailing", "linspace"],
    "rescale_betas_zero_snr": [True],
    "variance_type": ["fixed_large", "learned", "fixed_small"],
    "skip_prk_steps": [True, False],
    "interpolation_type": ["log_linear"],
    "use_karras_sigmas": [True],
    "use_exponential_sigmas": [True],
    "use_beta_sigmas": [True],
    "use_flow_sigmas": [True],
    "use_lu_lambdas": [True],
    "sigma_min": [0.05],
    "sigma_max": [10.0],
    "timestep_type": ["continuous"],
    "final_sigmas_type": ["sigma_min", "zero"],
    "solver_order": [1, 3],
    "solver_type": ["heun", "bh1", "logrho"],
    "algorithm_type": ["dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"],
    "lower_order_final": [True, False],
    "euler_at_final": [True],
    "lambda_min_clipped": [-5.1],
    "flow_shift": [3.0],
    "predict_x0": [False],
    "disable_corrector": [[0]],
    "use_dynamic_shifting": [True],
    "time_shift_type": ["linear"],
    "shift_terminal": [0.1],
    "solver_p": [{"_class_name": "DDIMScheduler"}],
    "original_inference_steps": [100],
    "timestep_scaling": [5.0],
}


@pytest.mark.parametrize("name", OWN)
def test_a_schedulers_key_is_refused_replaced_in_so_many_words_or_walked_as_in_diffusers(
    name: str, tmp_path: Path
) -> None:
    kind = getattr(diffusers, name)
    for key in sorted(arguments(kind)):
        for value in SCHEDULER_VALUES[key]:
            try:
                found = read_sampler(write(tmp_path, {"_class_name": name, key: value}), STABLE_DIFFUSION)
            except ArtifactError:
                continue
            if found.replaced:
                continue
            own = {other: right for other, right in MENDED.items() if other in arguments(kind)}
            try:
                theirs = steps_of(kind(**{key: value, **own}), found.record)
                ours = start(found.record, STEPS)
            except (ValueError, NotImplementedError, UsageError):
                # Without a picture of diffusers', or refused here when it is to begin.
                continue
            latents = LATENTS.numpy()
            for output, expected in theirs:
                latents = ours.step(output, latents).latents
                if not np.isfinite(expected).all():
                    # No picture of diffusers' to compare with.
                    break
                error = np.abs(expected - latents).max() / np.abs(expected).max()
                assert error < 1e-5, (key, value)


# diffusers' pipelines mend both of these in every file.
MENDED = {"clip_sample": False, "steps_offset": 1}
STEPS = 6
LATENTS = seeded(1, 4, 4, 4)


def steps_of(scheduler: Any, record: SamplerRecord) -> list[tuple[np.ndarray, np.ndarray]]:
    """A walk of diffusers': what the network says, and the latents behind the step."""
    if isinstance(record, DDIMRecord) and record.timestep_spacing == "linspace":
        # It steps beside its own list, which is known to be wrong there.
        _walk_own_list(scheduler)
    scheduler.set_timesteps(STEPS)
    given = {"generator": torch.Generator().manual_seed(0), "eta": 0.0}
    options = {key: value for key, value in given.items() if key in inspect.signature(scheduler.step).parameters}
    latents, found = LATENTS, []
    for index, timestep in enumerate(scheduler.timesteps):
        output = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(index + 1))
        latents = scheduler.step(output, timestep, latents, **options).prev_sample
        found.append((output.numpy(), latents.numpy()))
    return found
