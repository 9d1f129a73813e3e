from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np
import pytest

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.sampling.golden import NOISE_SEEDS, TOKENIZER_SAMPLES, golden_run
from sfmobile.sampling.noise import initial_latents
from sfmobile.sampling.pipeline import Request
from sfmobile.sampling.samplers.starting import start
from tests.sampling.pipelines import reference_bundle

REQUEST = Request("a cat", negative_prompt="a dog", seed=3, steps=4, guidance_scale=2.0)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_run_can_be_followed_from_its_vectors_alone(batch: Literal[1, 2], tiny_checkpoint: Checkpoint) -> None:
    bundle = reference_bundle(tiny_checkpoint, batch)
    run = golden_run(bundle, tiny_checkpoint, REQUEST)
    assert (run.prompt, run.negative_prompt, run.seed, run.steps, run.guidance_scale) == ("a cat", "a dog", 3, 4, 2.0)
    vectors, sampler = run.vectors, start(bundle.manifest.sampler, 4)
    np.testing.assert_array_equal(vectors["run.latents"][:1], initial_latents(3, (1, 4, 8, 8)))
    np.testing.assert_array_equal(vectors["run.timesteps"], sampler.timesteps)
    for index in range(sampler.calls):
        output, latents = vectors["run.model_output"][index], vectors["run.latents"][index]
        found = sampler.step(output, latents).latents
        np.testing.assert_array_equal(found, vectors["run.latents"][index + 1])
    unconditional, conditional = vectors["unet.model_output"]
    np.testing.assert_array_equal(
        unconditional + np.float32(2.0) * (conditional - unconditional), vectors["run.model_output"][-1]
    )
    scaled = vectors["run.latents"][-1:] / np.float32(bundle.manifest.latents.scaling_factor)
    np.testing.assert_array_equal(scaled, vectors["decoder.latents"])


def test_components_have_all_their_inputs_and_outputs(tiny_checkpoint: Checkpoint) -> None:
    bundle = reference_bundle(tiny_checkpoint)
    vectors = golden_run(bundle, tiny_checkpoint, REQUEST).vectors
    for name, record in bundle.manifest.components.items():
        for tensor in (*record.inputs, *record.outputs):
            assert vectors[f"{name}.{tensor.name}"].shape == tensor.shape


def test_samples_of_tokenizer_and_noise_are_complete(tiny_checkpoint: Checkpoint) -> None:
    vectors = golden_run(reference_bundle(tiny_checkpoint), tiny_checkpoint, REQUEST).vectors
    texts, offsets = vectors["tokenizer.texts"].tobytes(), vectors["tokenizer.offsets"]
    decoded = [texts[start:end].decode() for start, end in pairwise(offsets)]
    assert decoded == list(TOKENIZER_SAMPLES)
    assert vectors["tokenizer.ids"].shape == (len(TOKENIZER_SAMPLES), 77)
    assert vectors["noise.values"].shape == (len(NOISE_SEEDS), 1, 4, 8, 8)
    # A vector of a type that the phone's reader doesn't know would be of no use.
    types = {"uint8", "int32", "int64", "float32"}
    assert {str(vector.dtype) for vector in vectors.values()} <= types
    assert all(vector.flags.c_contiguous for vector in vectors.values())
