"""The distillation target is exact: with an oracle v, one student step lands where two teacher steps do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sfmobile.sampling.samplers.schedule import alphas_cumprod
from sfmobile.train.diffusion import NoiseSchedule, StepGrid, guide
from sfmobile.train.glyph import SCHEDULES
from sfmobile.train.stages.steps import StepObjective, truncated_snr, two_step_target

SHAPE = (3, 4, 8, 8)


def schedule(name: str) -> NoiseSchedule:
    """In float64, so that what is left is the formulas' error and not the buffers'."""
    diffusion = NoiseSchedule(SCHEDULES[name], time_channels=32)
    cumulative = torch.as_tensor(np.append(1.0, alphas_cumprod(SCHEDULES[name])), dtype=torch.float64)
    diffusion.alphas, diffusion.sigmas = cumulative.sqrt(), (1 - cumulative).sqrt()
    return diffusion


@settings(deadline=None, max_examples=30)
@given(
    name=st.sampled_from(sorted(SCHEDULES)),
    timestep=st.integers(2, 999),
    middle_share=st.floats(0.1, 0.9),
    target_share=st.floats(0.0, 0.9),
    seed=st.integers(0, 2**16),
)
def test_the_target_is_the_clean_latent_for_a_teacher_that_knows_it(name, timestep, middle_share, target_share, seed):
    """Equations (7) and (9) are exact: a teacher with the true v gives back x itself."""
    torch.manual_seed(seed)
    diffusion = schedule(name)
    clean, noise = torch.randn(SHAPE).double(), torch.randn(SHAPE).double()
    target = int(timestep * target_share) - 1
    middle = min(timestep - 1, max(target + 1, int(target + (timestep - target) * middle_share)))
    t, m, s = (torch.full((SHAPE[0],), value) for value in (timestep, middle, target))
    noisy = diffusion.add_noise(clean, noise, t)
    halfway = diffusion.ddim_step(noisy, diffusion.velocity(clean, noise, t), t, m)
    reached = diffusion.ddim_step(halfway, diffusion.velocity(clean, noise, m), m, s)
    torch.testing.assert_close(two_step_target(diffusion, noisy, reached, t, s), clean, rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(steps=st.sampled_from([1, 2, 4, 8, 16]), seed=st.integers(0, 2**16))
def test_a_student_that_predicts_the_target_lands_where_two_teacher_steps_do(steps, seed):
    torch.manual_seed(seed)
    diffusion = schedule("zero-terminal")
    grid, fine = (StepGrid.of(SCHEDULES["zero-terminal"], n) for n in (steps, steps * 2))
    for timestep, target in zip(grid.timesteps, grid.targets, strict=True):
        middle = max(m for m in fine.timesteps if m < timestep)
        t, m, s = (torch.full((SHAPE[0],), value) for value in (timestep, middle, target))
        noisy = torch.randn(SHAPE).double()
        # Any teacher: two arbitrary velocities.
        halfway = diffusion.ddim_step(noisy, torch.randn(SHAPE).double(), t, m)
        reached = diffusion.ddim_step(halfway, torch.randn(SHAPE).double(), m, s)
        wanted = two_step_target(diffusion, noisy, reached, t, s)
        # The v whose x is `wanted`: x = alpha z - sigma v.
        velocity = (diffusion.alpha(t) * noisy - wanted) / diffusion.sigma(t)
        landed = diffusion.ddim_step(noisy, velocity, t, s)
        torch.testing.assert_close(landed, reached, rtol=1e-6, atol=1e-6)


def test_the_loss_weight_is_the_signal_to_noise_ratio_but_at_least_one():
    diffusion = schedule("zero-terminal")
    weights = truncated_snr(diffusion, torch.tensor([0, 500, 999]))
    expected = (diffusion.alphas[1] / diffusion.sigmas[1]) ** 2
    torch.testing.assert_close(weights[0], expected)
    assert weights[2] == 1.0
    assert (weights >= 1).all()


class _LinearUNet(nn.Module):
    """Stands for a UNet: v = a z + b mean(context), so that guidance and targets can be computed by hand."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))

    def forward(self, latents, time_embedding, encoder_hidden_states, guidance_embedding=None, gates=None):
        return self.a * latents + self.b * encoder_hidden_states.mean(dim=(1, 2, 3)).reshape(-1, 1, 1, 1)


class _Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 6)

    def forward(self, input_ids):
        return self.table(input_ids).transpose(1, 2).unsqueeze(2)


def _objective(original_weight: float = 0.0) -> StepObjective:
    torch.manual_seed(0)
    diffusion = NoiseSchedule(SCHEDULES["zero-terminal"], time_channels=32)
    return StepObjective(_Embedding(), _LinearUNet(0.3, 2.0), _LinearUNet(0.1, -1.0), diffusion, original_weight)


def _batch(scale: float | None):
    torch.manual_seed(1)
    t, m, s = torch.tensor([874, 499, 124]), torch.tensor([811, 436, 61]), torch.tensor([749, 374, -1])
    ids = torch.randint(0, 10, (3, 5))
    empty = torch.zeros(5, dtype=torch.long)
    latents, noise = torch.randn(SHAPE), torch.randn(SHAPE)
    weight = None if scale is None else torch.full((3, 1, 1, 1), scale)
    return latents, ids, empty, noise, (t, m, s), torch.tensor([10, 500, 900]), weight


@pytest.mark.parametrize("scale", [None, 2.0, 7.5])
def test_the_loss_is_equation_nine_with_guidance_in_both_networks(scale):
    objective = _objective()
    latents, ids, empty, noise, (t, m, s), _, weight = batch = _batch(scale)
    diffusion = objective.schedule
    context, nothing = objective.text_encoder(ids), objective.text_encoder(empty[None]).expand(3, -1, -1, -1)

    def velocity(unet, z):
        conditional = unet(z, None, context)
        return conditional if scale is None else guide(conditional, unet(z, None, nothing), weight)

    noisy = diffusion.add_noise(latents, noise, t)
    halfway = diffusion.ddim_step(noisy, velocity(objective.teacher, noisy), t, m)
    reached = diffusion.ddim_step(halfway, velocity(objective.teacher, halfway), m, s)
    ratio = diffusion.sigma(s) / diffusion.sigma(t)
    wanted = (reached - ratio * noisy) / (diffusion.alpha(s) - ratio * diffusion.alpha(t))
    clean = diffusion.alpha(t) * noisy - diffusion.sigma(t) * velocity(objective.student, noisy)
    snr = ((diffusion.alpha(t) / diffusion.sigma(t)) ** 2).clamp_min(1).flatten()
    expected = (((clean - wanted) ** 2).mean(dim=(1, 2, 3)) * snr).mean()
    torch.testing.assert_close(objective(*batch)["loss"], expected)


def test_the_original_loss_is_scaled_to_the_distillation_loss_before_gamma_weighs_it():
    losses = _objective(original_weight=0.2)(*_batch(None))
    torch.testing.assert_close(losses["loss"], 1.2 * losses["distillation"])
    assert losses["original"] > 0


def test_only_the_student_learns():
    objective = _objective(original_weight=0.2)
    objective(*_batch(7.5))["loss"].backward()
    assert all(p.grad is not None for p in objective.student.parameters())
    assert all(p.grad is None for p in [*objective.teacher.parameters(), *objective.text_encoder.parameters()])


def test_a_student_equal_to_a_one_velocity_teacher_has_no_loss():
    """A teacher whose v is constant along the path moves in one straight step, which the student can copy."""
    objective = _objective()
    latents, ids, empty, noise, grid, original, _ = _batch(None)
    clean_teacher = _OracleUNet(objective.schedule, latents, noise, grid)
    objective.teacher = objective.student = clean_teacher
    assert float(objective(latents, ids, empty, noise, grid, original, None)["loss"].detach()) < 1e-8


class _OracleUNet(nn.Module):
    """Knows the clean latent: recovers v from z and the timestep embedding's position in the table."""

    def __init__(self, diffusion: NoiseSchedule, clean, noise, grid) -> None:
        super().__init__()
        self.diffusion, self.clean, self.noise = diffusion, clean, noise

    def forward(self, latents, time_embedding, encoder_hidden_states, guidance_embedding=None, gates=None):
        table = self.diffusion.sinusoids
        t = torch.cdist(time_embedding.flatten(1), table).argmin(dim=1)
        return self.diffusion.velocity(self.clean, self.noise, t)
