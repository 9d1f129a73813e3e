"""Step distillation (SnapFusion sec. 4): one student step learns what two teacher DDIM steps do.

Losses: vanilla (eq. 9), CFG-aware (guidance inside both teacher and student, w ~ U[range]), mixed per batch with
probability p, plus gamma times the original v loss scaled to the size of the distillation loss (eq. 11).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfmobile.errors import UsageError
from sfmobile.nets.text_encoder import TextEncoder
from sfmobile.nets.unet import UNet
from sfmobile.train import processes
from sfmobile.train.config import LoopConfig
from sfmobile.train.diffusion import NoiseSchedule, StepGrid, guidance_sinusoid, guide
from sfmobile.train.glyph import schedule_named
from sfmobile.train.latents import LatentPool
from sfmobile.train.randomness import generator_for
from sfmobile.train.record import StageRecord, UNetRecord, renamed
from sfmobile.train.stage import StageConfig, Workplace

GUIDANCE_CHANNELS = 64


@dataclass(frozen=True)
class StepConfig(StageConfig, kind="steps"):
    """A step-distillation stage.

    teacher, student: layouts; teacher_from, student_from, text_encoder_from: the stages that trained their weights;
    the teacher takes two steps of a grid of 2 * student_steps where the student takes one.
    cfg_probability: SnapFusion's p, 0 = vanilla loss only, 1 = CFG-aware only; guidance_range: w ~ U[range];
    original_weight: gamma of eq. 11; guidance_conditioned: the student gets w as an input and learns the guided
    teacher in one evaluation (arXiv 2210.03142), for comparison.
    """

    loop: LoopConfig
    teacher_from: str
    student_from: str
    student: str
    student_steps: int
    teacher: str = "glyph-teacher"
    text_encoder_from: str = "teacher"
    schedule: str = "zero-terminal"
    pool: str = "latents"
    cfg_probability: float = 0.1
    guidance_range: tuple[float, float] = (2.0, 14.0)
    original_weight: float = 0.2
    caption_dropout: float = 0.1
    guidance_conditioned: bool = False

    def sources(self) -> tuple[str, ...]:
        """The pool, teacher, student and the text encoder that both listen to."""
        return self.pool, self.teacher_from, self.student_from, self.text_encoder_from

    def run(self, name: str, place: Workplace) -> None:
        """Distil two teacher steps into one student step."""
        run = place.run
        scheduler = schedule_named(self.schedule)
        teacher = run.trained_unet(self.teacher_from, self.teacher)
        if run.unet_record(self.teacher_from).schedule != scheduler:
            raise UsageError(
                f"Stage '{name}': its teacher '{self.teacher_from}' was trained on another noise schedule than "
                f"'{self.schedule}', so its steps over that would be wrong; set the teacher's own."
            )
        layout = run.unet_layout(self.student)
        if self.guidance_conditioned:
            layout = replace(layout, guidance_embedding_dim=GUIDANCE_CHANNELS)
        student = run.new_unet(layout, self.student_from)
        text_encoder = run.text_encoder(self.text_encoder_from)
        schedule = NoiseSchedule(scheduler, layout.down[0].channels)
        objective = StepObjective(text_encoder, teacher, student, schedule, self.original_weight)
        weights = place.train(name, StepTraining(name, self, objective, run.pool(self.pool)), self.loop)
        record = UNetRecord(
            layout=layout,
            schedule=scheduler,
            latents=run.pool_record(self.pool),
            text_encoder_from=self.text_encoder_from,
        )
        run.leave(name, renamed(weights, "student.", "unet."), StageRecord(kind=self.kind, unet=record))


def two_step_target(
    schedule: NoiseSchedule, noisy: Tensor, reached: Tensor, timestep: Tensor, target: Tensor
) -> Tensor:
    """The x that one DDIM step t -> t'' must predict to arrive at z_t'' = `reached` (bracket of eq. 9)."""
    ratio = schedule.sigma(target) / schedule.sigma(timestep)
    return (reached - ratio * noisy) / (schedule.alpha(target) - ratio * schedule.alpha(timestep))


def truncated_snr(schedule: NoiseSchedule, timestep: Tensor) -> Tensor:
    """max(alpha_t^2 / sigma_t^2, 1) as (B,) (eq. 9)."""
    snr = (schedule.alpha(timestep) / schedule.sigma(timestep)) ** 2
    return snr.flatten().clamp_min(1.0)


class StepObjective(nn.Module):
    """L = L_dstl + gamma L_ori (eq. 11)."""

    def __init__(
        self, text_encoder: TextEncoder, teacher: UNet, student: UNet, schedule: NoiseSchedule, original_weight: float
    ) -> None:
        super().__init__()
        self.text_encoder = text_encoder.requires_grad_(False)
        self.teacher = teacher.requires_grad_(False)
        self.student = student
        self.schedule = schedule
        self.original_weight = original_weight

    def _velocity(
        self, unet: UNet, noisy: Tensor, timestep: Tensor, context: Tensor, empty: Tensor | None, scale: Tensor | None
    ) -> Tensor:
        """v, or the guided v where `empty` and `scale` (B, 1, 1, 1) are given."""
        embedding = self.schedule.embed(timestep)
        if empty is None or scale is None:
            return unet(noisy, embedding, context).float()
        both = unet(noisy.repeat(2, 1, 1, 1), embedding.repeat(2, 1, 1, 1), torch.cat([context, empty])).float()
        conditional, unconditional = both.chunk(2)
        return guide(conditional, unconditional, scale)

    def forward(
        self,
        latents: Tensor,
        input_ids: Tensor,
        empty_ids: Tensor,
        noise: Tensor,
        grid: tuple[Tensor, Tensor, Tensor],
        original_timestep: Tensor,
        scale: Tensor | None,
        guidance_embedding: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """latents, noise (B, 4, h, w); input_ids (B, 77); empty_ids (77,); grid = (t, t', t'') each (B,);
        scale (B, 1, 1, 1) for the CFG-aware loss, None for the vanilla one."""
        schedule = self.schedule
        timestep, middle, target = grid
        with torch.no_grad():
            context = self.text_encoder(input_ids)
            empty = None
            if scale is not None:
                empty = self.text_encoder(empty_ids[None]).expand(context.shape[0], -1, -1, -1)
            noisy = schedule.add_noise(latents, noise, timestep)
            halfway = schedule.ddim_step(
                noisy, self._velocity(self.teacher, noisy, timestep, context, empty, scale), timestep, middle
            )
            reached = schedule.ddim_step(
                halfway, self._velocity(self.teacher, halfway, middle, context, empty, scale), middle, target
            )
            wanted = two_step_target(schedule, noisy, reached, timestep, target)
        if guidance_embedding is not None:
            velocity = self.student(
                noisy, schedule.embed(timestep), context, guidance_embedding=guidance_embedding
            ).float()
        else:
            velocity = self._velocity(self.student, noisy, timestep, context, empty, scale)
        error = F.mse_loss(schedule.clean(noisy, velocity, timestep), wanted, reduction="none").mean(dim=(1, 2, 3))
        distillation = (error * truncated_snr(schedule, timestep)).mean()
        losses = {"distillation": distillation}
        if self.original_weight > 0 and guidance_embedding is None:
            original_noisy = schedule.add_noise(latents, noise, original_timestep)
            predicted = self.student(original_noisy, schedule.embed(original_timestep), context).float()
            original = F.mse_loss(predicted, schedule.velocity(latents, noise, original_timestep))
            # Scaled so that both losses have one size before gamma weighs them.
            balance = (distillation / original.clamp_min(1e-8)).detach()
            losses["original"] = original.detach()
            losses["loss"] = distillation + self.original_weight * balance * original
        else:
            losses["loss"] = distillation
        return losses


class StepTraining:
    """Draws what `StepObjective` needs; the choice between vanilla and CFG-aware is one per batch."""

    def __init__(self, name: str, config: StepConfig, objective: StepObjective, pool: LatentPool) -> None:
        self.name = name
        self.config = config
        self.objective: nn.Module = objective
        self.pool = pool
        scheduler = objective.schedule.scheduler
        self.train_timesteps = scheduler.num_train_timesteps
        grid = StepGrid.of(scheduler, config.student_steps)
        fine = StepGrid.of(scheduler, config.student_steps * 2)
        # t' is the teacher's own grid point between t and t''.
        middle = [max(m for m in fine.timesteps if m < t) for t in grid.timesteps]
        self.grid = torch.tensor([grid.timesteps, middle, grid.targets])

    def inputs(self, index: int, batch_size: int, device: torch.device) -> tuple[object, ...]:
        """Micro step `index`: everything is drawn from (stage, seed, index)."""
        config = self.config
        generator = generator_for(device, self.name, config.loop.seed, index)
        # One choice for all processes of a step: their graphs must agree.
        step = index // processes.count()
        draw = torch.rand((), generator=generator_for(torch.device("cpu"), self.name, "cfg", config.loop.seed, step))
        cfg = config.guidance_conditioned or bool(draw < config.cfg_probability)
        latents, input_ids = self.pool.batch(index, batch_size, config.loop.seed)
        if not cfg:
            drop = torch.rand(batch_size, generator=generator, device=device) < config.caption_dropout
            input_ids = torch.where(drop[:, None], self.pool.empty_ids.long(), input_ids)
        noise = torch.randn(latents.shape, generator=generator, device=device)
        choice = torch.randint(self.grid.shape[1], (batch_size,), generator=generator, device=device)
        timestep, middle, target = self.grid.to(device)[:, choice]
        original = torch.randint(self.train_timesteps, (batch_size,), generator=generator, device=device)
        scale = embedding = None
        if cfg:
            low, high = config.guidance_range
            scale = low + (high - low) * torch.rand((batch_size, 1, 1, 1), generator=generator, device=device)
            if config.guidance_conditioned:
                embedding = guidance_sinusoid(scale.flatten(), GUIDANCE_CHANNELS)
        ids = self.pool.empty_ids.long()
        return latents, input_ids, ids, noise, (timestep, middle, target), original, scale, embedding
