"""Pictures are scored on prompts that no fine-tuning caption repeats, from the same noise every time."""

from __future__ import annotations

import pytest
import torch

from sfmobile.errors import UsageError
from sfmobile.evaluate.agreement import Agreement, prompts_apart
from sfmobile.train.data.prompts import evaluation_prompts
from sfmobile.train.latents import LatentPool
from tests.evaluate.test_evaluation import judges
from tests.evaluate.tiny_sprites import encode, sprite_pool

SPRITES = sprite_pool().sprites


def pool_of(captions: list[str]) -> LatentPool:
    return LatentPool(torch.zeros(len(captions), 4, 8, 8), encode(captions).int(), encode([""])[0].int())


def test_prompts_are_held_apart_from_the_captions_and_taken_from_each_kind_in_turn():
    styles = [caption for caption, _ in evaluation_prompts(SPRITES, "style")]
    backgrounds = [caption for caption, _ in evaluation_prompts(SPRITES, "background")]
    prompts = prompts_apart(SPRITES, pool_of([styles[0], backgrounds[1]]), encode, ("style", "background"), 4)
    assert prompts == [styles[1], backgrounds[0], styles[2], backgrounds[2]]


def test_too_few_prompts_are_counted():
    with pytest.raises(UsageError, match=r"there are \d+ prompts .* fewer than the 5000 asked for"):
        prompts_apart(SPRITES, pool_of(["a fox"]), encode, ("style",), 5000)


def test_agreement_is_the_mean_cosine_of_each_picture_with_its_own_prompt():
    prompts = ["a red fox", "a blue hat", "an egg"]
    encoder = judges().dual_encoder
    agreement = Agreement(encoder, encode, prompts, batch=2, first_seed=10)
    asked: list[tuple[str, int]] = []

    def sampler(captions, seeds):
        asked.extend(zip(captions, seeds, strict=True))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return torch.stack([torch.rand(3, 32, 32, generator=own) * 2 - 1 for own in generators])

    found = agreement(sampler)
    assert asked == [("a red fox", 10), ("a blue hat", 11), ("an egg", 12)]
    pictures = sampler(prompts, range(10, 13))
    with torch.no_grad():
        cosines = (encoder.encode_images(pictures) * encoder.encode_texts(encode(prompts))).sum(dim=1)
    assert found == pytest.approx(float(cosines.mean()), abs=1e-6)
    rest = Agreement(encoder, encode, prompts, ignored=["a blue hat"], first_seed=10)
    assert rest(sampler) == pytest.approx(float(cosines[[0, 2]].mean()), abs=1e-6)
