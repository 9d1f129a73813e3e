from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sfmobile.train.data.colours import NAMES, colour_names
from sfmobile.train.data.compose import SpritePool, compose_batch, load_pool, render
from sfmobile.train.data.scenes import Composer, Scenes
from sfmobile.train.data.sprites import read_index


def _compose(pool: SpritePool, kind: str, count: int = 24) -> list[tuple[Tensor, str, dict[str, object]]]:
    """Pictures of one kind in [0, 1]."""
    composer = Composer(pool.sprites, ("train", "judge", "held_out"), {kind: 1.0})
    images, captions, attributes = compose_batch(SpritePool(pool.sprites, pool.pixels, composer), 0, count, 0)
    assert images.shape == (count, 3, 128, 128) and images.dtype == torch.float32
    assert float(images.min()) >= -1 and float(images.max()) <= 1
    return list(zip(images.add(1).div(2), captions, attributes, strict=True))


def _foreground(image: Tensor, rgb: tuple[float, float, float]) -> np.ndarray:
    return ((image - torch.tensor(rgb)[:, None, None]).abs().amax(0) > 0.15).numpy()


def _runs(mask: np.ndarray) -> int:
    """How many separate intervals a row of flags has."""
    return int((np.diff(np.concatenate([[False], mask])) & np.concatenate([mask[:1], mask[1:]])).sum())


def _things(mask: np.ndarray) -> int:
    """How many squares stand on a picture: intervals of columns within each interval of rows."""
    rows = mask.any(1)
    total, start = 0, None
    for y in range(len(rows) + 1):
        if y < len(rows) and rows[y]:
            start = y if start is None else start
        elif start is not None:
            total += _runs(mask[start:y].any(0))
            start = None
    return total


def test_the_same_batch_is_the_same_bit_for_bit(pool: SpritePool):
    first, again = compose_batch(pool, 17, 12, 3), compose_batch(pool, 17, 12, 3)
    assert torch.equal(first[0], again[0]) and first[1:] == again[1:]


def test_the_background_is_the_named_colour_up_to_the_corners(pool: SpritePool):
    for image, caption, attributes in _compose(pool, "background"):
        corner = image[:, 0, 0].numpy()
        assert NAMES[int(colour_names(corner))] == attributes["background"], caption
        np.testing.assert_allclose(corner, attributes["background_rgb"], atol=1e-6)


def test_as_many_things_stand_there_as_the_caption_counts(pool: SpritePool):
    for image, caption, attributes in _compose(pool, "count"):
        if attributes["concepts"] != ["1F438"]:  # drawn half as wide, so rows of it touch less
            assert _things(_foreground(image, attributes["background_rgb"])) == attributes["count"], caption


def test_the_first_named_stands_where_the_caption_says(pool: SpritePool):
    colours = {sprite.base: torch.tensor(sprite.mean)[:, None, None] for sprite in pool.sprites if sprite.tone is None}
    grid = torch.arange(128.0)
    rows = [row for row in _compose(pool, "pair", 48) if row[2]["kind"] == "pair"]
    assert len(rows) > 40
    for image, caption, attributes in rows:
        centres = []
        for base in attributes["concepts"]:
            near = ((image - colours[base]).abs().amax(0) < 0.12).float()
            assert near.sum() > 200, caption
            centres.append(
                (float((near.sum(0) * grid).sum() / near.sum()), float((near.sum(1) * grid).sum() / near.sum()))
            )
        (x1, y1), (x2, y2) = centres
        holds = {"left": x1 < x2 - 30, "right": x1 > x2 + 30, "above": y1 < y2 - 30, "below": y1 > y2 + 30}
        assert holds[attributes["relation"]], caption


def test_a_recoloured_object_bears_the_colour_of_the_caption(pool: SpritePool):
    for image, caption, attributes in _compose(pool, "recolour"):
        mask = _foreground(image, attributes["background_rgb"])
        names = colour_names(image[:, mask].T.numpy())
        assert (names == NAMES.index(attributes["recolour"])).mean() > 0.6, caption


def test_a_tiny_thing_is_smaller_than_a_small_and_a_large_one(pool: SpritePool):
    areas: dict[str, list[float]] = {}
    for image, _, attributes in _compose(pool, "size", 64):
        if attributes["concepts"] == ["1F34E"]:
            areas.setdefault(attributes["size"], []).append(_foreground(image, attributes["background_rgb"]).mean())
    assert max(areas["tiny"]) < min(areas["small"]) and max(areas["small"]) < min(areas["large"])


@pytest.mark.parametrize("side", [1.0, 0.8, 0.45, 0.25, 0.11])
def test_a_placed_sprite_covers_its_share_of_the_picture_at_its_place(pool: SpritePool, side: float):
    apple = next(n for n, s in enumerate(pool.sprites) if s.phrase == "apple" and s.style == "flat")
    scenes = Scenes(
        background=np.ones((1, 3), np.float32),
        picture=np.zeros(1, np.int64),
        sprite=np.array([apple]),
        place=np.array([[side, 0.25, -0.25]], np.float32),
        recolour=np.zeros((1, 6), np.float32),
        captions=[""],
        attributes=[{}],
    )
    darkness = (1 - render(pool.pixels, scenes)[0, 2]) / 2
    full = darkness.max()
    assert float(full) == pytest.approx(1 - 0x20 / 255, abs=0.02)
    # The square is 24 of the drawing's 32 units; what is sampled keeps its area and its centre.
    assert float(darkness.sum() / full) == pytest.approx((128 * side * 0.75) ** 2, rel=0.04)
    grid = torch.arange(128.0) + 0.5
    assert float((darkness.sum(0) * grid).sum() / darkness.sum()) == pytest.approx(80, abs=0.3)
    assert float((darkness.sum(1) * grid).sum() / darkness.sum()) == pytest.approx(48, abs=0.3)


def test_edges_blend_between_sprite_and_background_alone(pool: SpritePool):
    for image, caption, attributes in _compose(pool, "background"):
        if attributes["concepts"] != ["1F34E"]:
            continue
        # A red square on any background: on the line from background to red there is no other colour, so each pixel
        # is a mixture with the same weight in every channel.
        background, red = torch.tensor(attributes["background_rgb"]), torch.tensor([0xE0, 0x20, 0x20]) / 255
        weight = ((image - background[:, None, None]) * (red - background)[:, None, None]).sum(0)
        weight /= (red - background).square().sum()
        mixed = background[:, None, None] + weight * (red - background)[:, None, None]
        assert float((mixed - image).abs().max()) < 0.02, caption


def test_the_pool_composes_only_the_parts_asked_for(pool: SpritePool, index):
    train = load_pool(index, splits=("train",))
    splits = {(sprite.hexcode, sprite.style): sprite.split for sprite in read_index(index)[0]}
    _, _, attributes = compose_batch(train, 0, 64, 0)
    assert {splits[row["hexcodes"][0], row["drawn_style"]] for row in attributes} == {"train"}
    assert train.pixels.shape == pool.pixels.shape
