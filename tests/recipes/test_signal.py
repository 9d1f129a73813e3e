from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.hub import open_checkpoint
from sfmobile.compress.palettize import palettize_weight
from sfmobile.compress.recipe import LayerRecipe
from sfmobile.recipes.sensitivity import SampleRun
from sfmobile.recipes.signal import (
    LatentSignal,
    OutputSignal,
    Runs,
    StoredNetwork,
    encode_prompts,
    step_factors,
    token_ids,
)
from sfmobile.sampling.samplers.starting import start
from tests.controlnets import write_controlnet

RUNS = Runs(("a red apple", "two fish"), "", seed=3, steps=3, guidance_scale=2.5, latent_size=(8, 8))
SIX = LayerRecipe(bits=6)


@pytest.fixture
def signal(tiny_checkpoint: Checkpoint) -> LatentSignal:
    return LatentSignal(tiny_checkpoint, RUNS)


def replay(signal: LatentSignal, sample: SampleRun) -> np.ndarray:
    """The last state of a sample, by its calls' factors alone."""
    state = torch.from_numpy(sample.calls[0].inputs["latents"][0])
    for call in sample.calls:
        inputs = {name: torch.from_numpy(np.array(value)) for name, value in call.inputs.items()}
        inputs["latents"] = state.expand_as(inputs["latents"])
        with torch.inference_mode():
            output = signal.network.net(**inputs)
        state = call.carry * state + torch.tensordot(torch.from_numpy(call.weights), output, dims=1)
    return state.numpy()


@pytest.mark.parametrize("scale", [2.5, 1.0])
def test_samples_are_the_runs_themselves(tiny_checkpoint: Checkpoint, scale: float) -> None:
    signal = LatentSignal(tiny_checkpoint, replace(RUNS, guidance_scale=scale))
    samples = signal.samples()
    assert len(samples) == 2 and len(signal.samples(1)) == 1
    for sample, latents in zip(samples, signal.latents, strict=True):
        assert np.allclose(replay(signal, sample), latents, rtol=1e-3, atol=1e-3 * np.abs(latents).max())
        assert sample.scale**2 * latents.size == pytest.approx(1)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("clip", [False, True])
def test_step_factors_say_what_a_step_makes_of_its_inputs(
    tiny_checkpoint: Checkpoint, prediction: str, clip: bool
) -> None:
    record = tiny_checkpoint.sampler.model_copy(
        update={"prediction_type": prediction, "rescale_betas_zero_snr": False, "clip_sample": False}
    )
    output, latents = np.random.default_rng(0).standard_normal((2, 64), dtype=np.float32)
    clipping = record.model_copy(update={"clip_sample": clip, "clip_sample_range": 0.1})
    sampler = start(record, 10)
    for carry, gain in step_factors(clipping, 10):
        expected = sampler.step(output, latents).latents
        assert np.allclose(carry * latents + gain * output, expected, rtol=1e-3, atol=1e-4)


def test_untouched_weights_measure_as_identical_and_restored_ones_too(signal: LatentSignal) -> None:
    assert signal.measure().final_db == math.inf
    signal.network.store(dict.fromkeys(signal.network.shapes, SIX))
    found = signal.measure()
    assert 10 < found.final_db < 80 and 10 < found.call_db < 80
    signal.network.restore()
    assert signal.measure().call_db == math.inf


def test_more_bits_measure_a_better_signal(signal: LatentSignal) -> None:
    found = []
    for bits in (2, 4, 8):
        signal.network.store(dict.fromkeys(signal.network.shapes, LayerRecipe(bits=bits)))
        found.append(signal.measure())
    assert found[0].final_db + 6 < found[1].final_db < found[2].final_db - 6
    assert found[0].call_db + 6 < found[1].call_db < found[2].call_db - 6


def test_stored_weights_are_the_palettized_ones(tiny_checkpoint: Checkpoint) -> None:
    network = StoredNetwork(tiny_checkpoint, "decoder")
    first, *others = network.shapes
    network.store({first: LayerRecipe(bits=2), **dict.fromkeys(others, LayerRecipe(bits=16))})
    expected = palettize_weight(network.weights()[first], LayerRecipe(bits=2)).dense()
    assert np.array_equal(network.net.get_parameter(f"{first}.weight").detach().numpy(), expected)
    for name in others:
        assert np.array_equal(network.net.get_parameter(f"{name}.weight").detach().numpy(), network.weights()[name])


def test_every_weight_counts_once_in_the_bytes(tiny_checkpoint: Checkpoint) -> None:
    network = StoredNetwork(tiny_checkpoint, "unet")
    total = sum(weight.numel() for weight in tiny_checkpoint.state_dict("unet").values())
    assert network.other_bytes + 2 * sum(math.prod(shape) for shape in network.shapes.values()) == 2 * total


def test_other_components_are_judged_by_their_own_output(tiny_checkpoint: Checkpoint) -> None:
    ids = token_ids(tiny_checkpoint, "text_encoder", ["a red apple", ""])
    states = [one["encoder_hidden_states"] for one in encode_prompts(tiny_checkpoint, ["a red apple", ""], (64, 64))]
    signal = OutputSignal(tiny_checkpoint, "text_encoder", [{"input_ids": row} for row in ids])
    assert np.array_equal(signal.outputs, np.concatenate(states))
    signal.network.store(dict.fromkeys(signal.network.shapes, SIX))
    found = signal.measure()
    assert found.final_db == found.call_db < 80
    assert len(signal.samples(1)) == 1


def test_a_unet_under_controlnets_runs_without_their_pictures(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    write_controlnet(tmp_path / "edges")
    controlled = open_checkpoint(tiny_checkpoint.root, control=[f"edges={tmp_path / 'edges'}"])
    runs = replace(RUNS, prompts=("a red apple",))
    found, plain = LatentSignal(controlled, runs), LatentSignal(tiny_checkpoint, runs)
    assert np.array_equal(found.latents, plain.latents)
    # Its weights have the plain one's names: a recipe for one is a recipe for the other.
    assert found.network.shapes == plain.network.shapes
