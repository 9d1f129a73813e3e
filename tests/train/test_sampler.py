"""Sampling while training gives the latents that the shipped pipeline gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sfmobile.bundle.manifest import TimeEmbeddingRecord
from sfmobile.nets.unet import UNet
from sfmobile.sampling.noise import initial_latents
from sfmobile.sampling.samplers.starting import start
from sfmobile.sampling.time_embedding import sinusoid
from sfmobile.train.diffusion import NoiseSchedule, StepGrid
from sfmobile.train.glyph import SCHEDULES
from sfmobile.train.sampler import sample_latents, seeded_noise
from tests.tiny import TINY_UNET


@pytest.mark.parametrize("name", sorted(SCHEDULES))
# Step counts that divide 1000: elsewhere diffusers' DDIM aims beside its own next timestep, and so does the pipeline.
@pytest.mark.parametrize(("steps", "scale"), [(8, 4.0), (5, 1.0)])
def test_batched_sampling_equals_the_pipelines_steps(name, steps, scale):
    torch.manual_seed(0)
    unet = UNet(TINY_UNET).eval()
    record = SCHEDULES[name]
    context, empty = torch.randn(2, 32, 1, 77), torch.randn(1, 32, 1, 77)
    noise = seeded_noise([3, 4], (4, 8, 8), torch.device("cpu"))
    schedule = NoiseSchedule(record, 32)
    made = sample_latents(unet, schedule, context, empty, steps=steps, guidance_scale=scale, noise=noise).numpy()
    time = TimeEmbeddingRecord(dimension=32)
    for row, seed in enumerate((3, 4)):
        latents, ddim = initial_latents(seed, (1, 4, 8, 8)), start(record, steps)
        for timestep in ddim.timesteps:
            with torch.no_grad():
                embedding = torch.as_tensor(sinusoid([int(timestep)], time))
                conditional = unet(torch.as_tensor(latents), embedding, context[row : row + 1]).numpy()
                unconditional = unet(torch.as_tensor(latents), embedding, empty).numpy()
            guided = conditional if scale == 1.0 else unconditional + scale * (conditional - unconditional)
            latents = ddim.step(guided, latents).latents
        np.testing.assert_allclose(made[row], latents[0], atol=2e-4)


def test_the_grid_ends_at_the_clean_latent_and_meets_itself():
    grid = StepGrid.of(SCHEDULES["zero-terminal"], 8)
    assert grid.timesteps[0] == 999
    assert grid.targets == (*grid.timesteps[1:], -1)
