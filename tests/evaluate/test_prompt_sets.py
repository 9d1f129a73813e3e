from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from sfmobile.errors import UsageError
from sfmobile.evaluate.metrics.memorisation import as_bytes
from sfmobile.evaluate.prompt_sets import (
    composed_prompts,
    distribution_prompts,
    held_out_prompts,
    kind_shares,
    recognition_prompts,
    trained_checks,
)
from sfmobile.train.data.compose import SpritePool, compose_batch, render
from sfmobile.train.data.scenes import Composer
from sfmobile.train.data.split import SPLITS, holds_out_background, holds_out_colour, holds_out_pair
from tests.evaluate.tiny_sprites import SIDE, sprite_pool

KINDS = {"plain": 0.3, "style": 0.2, "background": 0.3, "recolour": 0.2}


@pytest.fixture(scope="module")
def pool() -> SpritePool:
    pool = sprite_pool()
    return replace(pool, composer=Composer(pool.sprites, ("train", "judge"), KINDS))


def test_every_held_out_prompt_has_something_that_training_never_shows(pool: SpritePool) -> None:
    prompts = held_out_prompts(pool, 120, ("train", "judge"), seed=5)
    assert prompts.pictures.shape == (120, 3, SIDE, SIDE)
    drawn = {(s.base, s.style): s.split for s in pool.sprites}
    reasons: Counter[str] = Counter()
    for says in prompts.attributes:
        (base,) = says["concepts"]
        why = {
            "drawing": drawn[base, says["drawn_style"]] == "held_out",
            "background": says["background"] is not None and holds_out_background(base, says["background"]),
            "colour": says["recolour"] is not None and holds_out_colour(base, says["recolour"]),
        }
        assert any(why.values()), says
        reasons.update(name for name, holds in why.items() if holds)
    assert reasons["drawing"] > 0
    assert reasons["background"] > 0


def test_held_out_pictures_are_those_of_their_captions(pool: SpritePool) -> None:
    few = held_out_prompts(pool, 30, ("train", "judge"), seed=5)
    more = held_out_prompts(pool, 60, ("train", "judge"), seed=5)
    assert more.captions[:30] == few.captions
    assert torch.equal(more.pictures[:30], few.pictures)
    source = replace(pool, composer=Composer(pool.sprites, SPLITS, KINDS, judge=True))
    images, captions, _ = compose_batch(source, 0, 256, 5)
    for caption, picture in zip(few.captions[:5], few.pictures, strict=False):
        shown = [as_bytes(images[n]) for n, text in enumerate(captions) if text == caption]
        assert any(torch.equal(picture, candidate) for candidate in shown), caption


def test_the_scenes_of_some_pictures_render_those_pictures(pool: SpritePool) -> None:
    scenes = Composer(pool.sprites, SPLITS, {"count": 0.5, "pair": 0.5}, judge=True).compose(0, 16, seed=2)
    whole, some = render(pool.pixels, scenes), render(pool.pixels, scenes.only([11, 2, 7]))
    assert torch.equal(some, whole[[11, 2, 7]])
    assert scenes.only([11, 2]).captions == [scenes.captions[11], scenes.captions[2]]
    assert render(pool.pixels, scenes).shape[0] == 16
    assert scenes.only([]).captions == []


def test_a_floor_has_the_held_out_sets_kinds_and_nothing_held_out(pool: SpritePool) -> None:
    held_out = held_out_prompts(pool, 300, ("train", "judge"), seed=5)
    shares = kind_shares(held_out)
    floor = distribution_prompts(pool, 300, ("train", "judge"), 6, shares, judge=False)
    kinds = Counter(says["kind"] for says in floor.attributes)
    assert set(kinds) == set(shares) <= set(KINDS)
    for kind, count in shares.items():
        assert abs(kinds[kind] - count) < 45, (kind, kinds, shares)
    for says in floor.attributes:
        background = says["background"]
        assert background is None or not holds_out_background(says["concepts"][0], background)


def test_prompts_follow_the_pools_own_kinds(pool: SpritePool) -> None:
    prompts = distribution_prompts(pool, 200, SPLITS, 3)
    assert {says["kind"] for says in prompts.attributes} <= set(KINDS)


def test_sprites_without_anything_held_out_are_refused() -> None:
    pool = sprite_pool()
    sprites = [replace(s, split="train") for s in pool.sprites]
    plain = SpritePool(sprites, pool.pixels, Composer(sprites, ("train",), {"plain": 1.0}))
    with pytest.raises(UsageError, match="give only 0 held-out compositions of 4; lower `pictures`"):
        held_out_prompts(plain, 4, ("train",), seed=0)


def test_recognition_repeats_every_held_out_drawing(pool: SpritePool) -> None:
    once, thrice = recognition_prompts(pool), recognition_prompts(pool, repeats=3)
    assert thrice.captions == 3 * once.captions
    assert torch.equal(thrice.pictures[len(once) :][: len(once)], once.pictures)
    assert len(recognition_prompts(pool, splits=SPLITS)) == len(pool.sprites)


def test_only_the_asked_lists_are_composed(pool: SpritePool) -> None:
    prompts = composed_prompts(pool, 20, ("background", "count"))
    assert {says["kind"] for says in prompts.attributes} == {"background", "count"}
    everything = composed_prompts(pool, 20)
    assert {"count", "pair"} <= {says["kind"] for says in everything.attributes}
    assert any(holds_out_pair(*says["concepts"]) for says in everything.attributes if says["relation"])


def test_what_was_not_trained_is_not_checked() -> None:
    assert trained_checks(KINDS) == ("background", "colour", "composed")
    assert trained_checks({"count": 1.0}) == ("count",)
    assert set(trained_checks(None)) == {"background", "colour", "composed", "count", "pair"}
