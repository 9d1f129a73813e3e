from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.errors import UsageError
from sfmobile.evaluate.evaluation import (
    PARTS,
    Evaluation,
    EvaluationConfig,
    Judges,
)
from sfmobile.evaluate.metrics.dual_encoder import DualEncoder, DualEncoderLayout
from sfmobile.evaluate.metrics.memorisation import as_float
from sfmobile.nets.autoencoder import Decoder
from sfmobile.nets.text_encoder import TextEncoder
from sfmobile.nets.unet import UNet
from sfmobile.sampling.picture import to_pixels
from sfmobile.sampling.pipeline import Request
from sfmobile.train.diffusion import NoiseSchedule
from sfmobile.train.glyph import ZERO_TERMINAL_SCHEDULE
from sfmobile.train.network_sampler import SamplingPrecision, checkpoint_sampler, network_sampler, picture_side
from tests.evaluate.tiny_sprites import SIDE, PixelDistance, PixelFeatures, encode, sprite_pool
from tests.sampling.pipelines import reference_pipeline
from tests.tiny import TINY_AUTOENCODER, TINY_TEXT_ENCODER, TINY_UNET

CONFIG = EvaluationConfig(pictures=60, recognised=2, composed=12, memorised=10, training=30, batch=25)


def judges() -> Judges:
    torch.manual_seed(0)
    layout = DualEncoderLayout(vocabulary=500, image_size=32, trunk_blocks=3, text_width=24, text_heads=2, embedding=16)
    return Judges(PixelFeatures(), DualEncoder(layout).eval(), encode, PixelDistance())


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return Evaluation(sprite_pool(), judges(), CONFIG, side=SIDE)


class Memory:
    """A sampler that knows the real picture of each prompt, and notes what it was asked for."""

    def __init__(self, evaluation: Evaluation) -> None:
        sets = (evaluation.distribution, evaluation.recognition)
        self.known = {
            (caption, seed): picture
            for prompts in sets
            for seed, (caption, picture) in enumerate(zip(prompts.captions, prompts.pictures, strict=True))
        }
        self.asked: list[tuple[str, int]] = []

    def __call__(self, captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        asked = list(zip(captions, seeds, strict=True))
        self.asked += asked
        blank = torch.full((3, SIDE, SIDE), 255, dtype=torch.uint8)
        return as_float(torch.stack([self.known.get(key, blank) for key in asked]))


def test_every_sampler_gets_the_same_prompts_and_seeds(evaluation: Evaluation) -> None:
    one, other = Memory(evaluation), Memory(evaluation)
    done: list[int] = []
    evaluation.measure("one", one, observer=done.append)
    evaluation.measure("other", other)
    assert one.asked == other.asked
    assert [seed for _, seed in one.asked[:60]] == list(range(60))
    assert done == sorted(done)
    assert done[-1] == len(one.asked) == evaluation.picture_count()


def test_real_pictures_reach_what_can_be_reached(evaluation: Evaluation) -> None:
    real, memory = evaluation.real().figures, evaluation.measure("memory", Memory(evaluation)).figures
    assert memory["FD-EffNetLite0"] == pytest.approx(0, abs=1e-6)
    assert "FD-EffNetLite0" not in real
    assert real["FD-EffNetLite0 floor"] == memory["FD-EffNetLite0 floor"] > 0
    assert real["agreement"] == pytest.approx(memory["agreement"], abs=1e-5)
    assert memory["pictures per second"] > 0
    # The pictures are small: two copies may touch.
    assert real["background right"] == real["object colour right"] == 1.0


def test_wrong_pictures_are_told_from_right_ones(evaluation: Evaluation) -> None:
    def grey(captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        return torch.zeros(len(captions), 3, SIDE, SIDE)

    wrong = evaluation.measure("grey", grey).figures
    assert wrong["FD-EffNetLite0"] > 3 * wrong["FD-EffNetLite0 floor"]
    assert wrong["object colour right"] == wrong["count right"] == 0.0
    assert wrong["prompt R@5"] < 0.2


def test_training_pictures_are_nearer_to_training_than_held_out_ones(evaluation: Evaluation) -> None:
    def copy(captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        return as_float(evaluation._drawings[[seed % len(evaluation._drawings) for seed in seeds]])

    copied = evaluation.measure("copy", copy, parts=("memorisation",)).figures
    assert copied["nearest training LPIPS"] == 0
    assert evaluation.real(("memorisation",)).figures["nearest training LPIPS"] > 0
    assert set(copied) == {"nearest training LPIPS", "nearest training LPIPS, 5th percentile", "pictures per second"}


def test_prompts_are_of_pairs_that_training_never_sees(evaluation: Evaluation) -> None:
    from sfmobile.train.data.split import holds_out_background, holds_out_colour, holds_out_pair

    held_out = {(s.phrase, s.style) for s in evaluation.pool.sprites if s.split == "held_out"}
    assert len(evaluation.recognition) == CONFIG.recognised * len(held_out)
    for caption, text in zip(evaluation.recognition.captions, evaluation.recognition.texts, strict=True):
        assert (text.split()[-1], caption.split()[-2]) in held_out
    for says in evaluation.composed.attributes:
        bases = says["concepts"]
        unseen = says["kind"] == "count"
        unseen |= says["background"] is not None and holds_out_background(bases[0], says["background"])
        unseen |= says["recolour"] is not None and holds_out_colour(bases[0], says["recolour"])
        unseen |= says["relation"] is not None and holds_out_pair(*bases)
        assert unseen, says


def test_other_noise_is_other_seeds_of_the_same_prompts(evaluation: Evaluation) -> None:
    one, other = Memory(evaluation), Memory(evaluation)
    evaluation.measure("one", one, parts=("recognition",))
    evaluation.measure("other", other, parts=("recognition",), first_seed=1000)
    assert other.asked == [(caption, seed + 1000) for caption, seed in one.asked]


def test_only_what_was_trained_is_checked() -> None:
    part = Evaluation(sprite_pool(), judges(), replace(CONFIG, checks=("background", "colour")), side=SIDE)
    right = {name for name in part.real(("composed",)).figures if name.endswith("right")}
    assert right == {"background right", "object colour right"}
    with pytest.raises(UsageError, match="there is no 'size'; expected some of background, colour"):
        EvaluationConfig(checks=("size",))


def networks(**changes: object) -> tuple[TextEncoder, UNet, Decoder, NoiseSchedule]:
    torch.manual_seed(0)
    unet = UNet(replace(TINY_UNET, **changes)).eval()
    schedule = NoiseSchedule(ZERO_TERMINAL_SCHEDULE, TINY_UNET.down[0].channels)
    return TextEncoder(TINY_TEXT_ENCODER).eval(), unet, Decoder(TINY_AUTOENCODER).eval(), schedule


def words(captions: Sequence[str]) -> Tensor:
    return encode(captions).remainder(TINY_TEXT_ENCODER.vocabulary)


def sample(
    captions: Sequence[str],
    seeds: Sequence[int],
    guidance: float = 3.0,
    precision: SamplingPrecision = "auto",
    **changes: object,
) -> Tensor:
    text_encoder, unet, decoder, schedule = networks(**changes)
    sampler = network_sampler(
        text_encoder,
        unet,
        decoder,
        schedule,
        words,
        steps=2,
        guidance_scale=guidance,
        latent_shape=(4, 8, 8),
        precision=precision,
    )
    return sampler(captions, seeds)


def test_bfloat16_samples_nearly_what_float32_does() -> None:
    captions, seeds = ["a fox"] * 6, list(range(6))
    exact, rounded = (sample(captions, seeds, precision=precision) for precision in ("fp32", "bf16"))
    assert torch.equal(exact, sample(captions, seeds))
    # Some 150 results in a row, each rounded to 8 bits: as independent errors, sqrt(150) * 2^-8 of the pictures' size.
    # The largest single difference is no measure: in which order a processor sums decides it.
    assert 0 < (exact - rounded).square().mean().sqrt() < 150**0.5 * 2**-8 * exact.square().mean().sqrt()


def test_a_picture_depends_on_its_caption_and_seed_alone_not_on_the_batch() -> None:
    both = sample(["a fox", "a red cup"], [5, 6])
    assert both.shape == (2, 3, 16, 16)
    assert both.abs().max() <= 1
    torch.testing.assert_close(sample(["a red cup"], [6])[0], both[1], rtol=1e-3, atol=1e-4)
    assert (sample(["a fox"], [6])[0] - both[0]).abs().max() > 1e-3
    assert (sample(["a boat"], [5])[0] - both[0]).abs().max() > 1e-5


def test_a_guidance_conditioned_unet_is_told_the_scale() -> None:
    one, other = (sample(["a fox"], [5], guidance, guidance_embedding_dim=64) for guidance in (2.0, 9.0))
    assert (one - other).abs().max() > 1e-5


def test_a_checkpoint_samples_with_its_own_settings(tiny_checkpoint: Checkpoint) -> None:
    pictures = checkpoint_sampler(tiny_checkpoint, steps=2)(["a", "b c"], [1, 2])
    assert pictures.shape == (2, 3, picture_side(tiny_checkpoint), picture_side(tiny_checkpoint))
    scale = tiny_checkpoint.guidance_scale
    same = checkpoint_sampler(tiny_checkpoint, steps=2, guidance_scale=scale)(["a", "b c"], [1, 2])
    assert torch.equal(pictures, same)


@pytest.mark.parametrize("sampler", [None, "euler-ancestral", "heun"])
def test_a_checkpoint_samples_as_its_pipeline_draws(tiny_checkpoint: Checkpoint, sampler: str | None) -> None:
    captions, seeds = ["a", "b c"], [1, 2]
    pictures = checkpoint_sampler(tiny_checkpoint, steps=3, guidance_scale=3.0, sampler=sampler)(captions, seeds)
    with reference_pipeline(tiny_checkpoint) as pipeline:
        for picture, caption, seed in zip(pictures, captions, seeds, strict=True):
            drawn = pipeline.generate(Request(caption, seed=seed, steps=3, guidance_scale=3.0, sampler=sampler))
            difference = to_pixels(picture[None].numpy()).astype(int) - drawn.pixels
            assert np.abs(difference).max() <= 1


def test_parts_can_be_measured_alone(evaluation: Evaluation) -> None:
    for part in PARTS:
        figures = evaluation.measure("one", Memory(evaluation), parts=(part,)).figures
        assert "pictures per second" in figures
        assert ("agreement" in figures) == (part == "distribution")
