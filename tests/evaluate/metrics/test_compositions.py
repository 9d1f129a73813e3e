from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from sfmobile.evaluate.metrics.compositions import (
    ColourReferences,
    background_names,
    check_compositions,
    count_pieces,
    dominant_colour,
    foregrounds,
    side_is_right,
)
from sfmobile.evaluate.prompt_sets import with_splits
from sfmobile.train.data.colours import COLOURS
from sfmobile.train.data.compose import compose_batch
from tests.evaluate.tiny_sprites import sprite_pool

SIZE = 64


def picture(background: str, *objects: tuple[str, int, int, int, int]) -> np.ndarray:
    """A background with boxes (colour, top, left, height, width)."""
    canvas = np.tile(np.array(COLOURS[background], np.float32)[:, None, None], (1, SIZE, SIZE))
    for colour, top, left, height, width in objects:
        canvas[:, top : top + height, left : left + width] = np.array(COLOURS[colour], np.float32)[:, None, None]
    return canvas / 127.5 - 1


def mask_of(shown: np.ndarray) -> np.ndarray:
    return foregrounds(torch.from_numpy(shown)[None])[0].numpy()


def background_of(shown: np.ndarray) -> str:
    return background_names(torch.from_numpy(shown)[None])[0]


def count_of(shown: np.ndarray) -> int:
    return count_pieces(mask_of(shown))


@pytest.mark.parametrize(
    ("background", "colour"),
    [(background, colour) for background in COLOURS for colour in ("red", "green", "black") if background != colour],
)
def test_background_and_object_colour_are_named(background: str, colour: str) -> None:
    shown = picture(background, (colour, 16, 16, 32, 32))
    assert background_of(shown) == background
    assert dominant_colour(shown, mask_of(shown)) == colour


def test_an_empty_picture_has_a_background_and_no_object() -> None:
    shown = picture("blue")
    assert background_of(shown) == "blue"
    assert dominant_colour(shown, mask_of(shown)) is None
    assert count_of(shown) == 0


def test_objects_are_counted_in_rows_triangles_and_squares() -> None:
    def boxes(*corners: tuple[int, int]) -> np.ndarray:
        return picture("white", *[("red", top, left, 20, 20) for top, left in corners])

    assert count_of(boxes((20, 20))) == 1
    assert count_of(boxes((20, 4), (20, 40))) == 2
    assert count_of(boxes((4, 22), (40, 4), (40, 40))) == 3
    assert count_of(boxes((4, 4), (4, 40), (40, 4), (40, 40))) == 4


def test_the_foreground_is_filled_and_follows_connected_parts() -> None:
    """Against scipy's labelling: components that survive a 3 × 3 erosion, holes filled."""
    random = np.random.default_rng(0)
    for _ in range(20):
        noise = ndimage.uniform_filter(random.normal(size=(SIZE, SIZE)), 5)
        noise[:2] = noise[-2:] = noise[:, :2] = noise[:, -2:] = -1  # the frame is background
        shown = np.where(noise > 0.05, -1.0, 1.0)[None].repeat(3, axis=0)
        filled = ndimage.binary_fill_holes(shown[0] < 0)
        labels, _ = ndimage.label(filled)
        kept = np.unique(labels[ndimage.binary_erosion(filled, np.ones((3, 3)))])
        np.testing.assert_array_equal(mask_of(shown), np.isin(labels, kept[kept > 0]))


def test_unlike_parts_are_one_object_and_specks_none() -> None:
    with_a_tear = picture("white", ("yellow", 10, 10, 40, 24), ("blue", 40, 40, 8, 4), ("black", 2, 2, 1, 1))
    assert count_of(with_a_tear) == 1
    assert not mask_of(with_a_tear)[2, 2]


@pytest.mark.parametrize(
    ("relation", "opposite", "red", "blue"),
    [
        ("left", "right", (20, 4), (20, 40)),
        ("right", "left", (20, 40), (20, 4)),
        ("above", "below", (4, 20), (40, 20)),
        ("below", "above", (40, 20), (4, 20)),
    ],
)
def test_the_side_is_read_off_the_picture(
    relation: str, opposite: str, red: tuple[int, int], blue: tuple[int, int]
) -> None:
    shown = picture("white", ("red", *red, 20, 20), ("blue", *blue, 20, 20))
    shares = {name: np.eye(12)[list(COLOURS).index(name)] for name in ("red", "blue")}
    assert side_is_right(shown, mask_of(shown), relation, shares["red"], shares["blue"])
    assert not side_is_right(shown, mask_of(shown), opposite, shares["red"], shares["blue"])
    turned = {"left": "above", "right": "below", "above": "left", "below": "right"}[relation]
    assert not side_is_right(shown, mask_of(shown), turned, shares["red"], shares["blue"])


def test_objects_that_touch_have_no_side() -> None:
    shown = picture("white", ("red", 20, 4, 20, 28), ("blue", 20, 32, 20, 28))
    red, blue = np.eye(12)[list(COLOURS).index("red")], np.eye(12)[list(COLOURS).index("blue")]
    assert not side_is_right(shown, mask_of(shown), "left", red, blue)


def test_real_compositions_pass_and_shuffled_ones_fail() -> None:
    pool = sprite_pool()
    kinds = dict.fromkeys(("background", "recolour", "count", "pair"), 1.0)
    images, _, says = compose_batch(with_splits(pool, ("train", "held_out"), kinds), 0, 160, seed=3)
    # Twice the size, so that the gap between copies has more than one pixel.
    pictures = torch.nn.functional.interpolate(images, scale_factor=2)
    references = ColourReferences(pool.pixels.numpy(), [sprite.base for sprite in pool.sprites])
    checks = check_compositions(pictures, says, references)
    assert all(check.checked >= 10 for check in checks.values()), checks
    assert all(check.share >= 0.95 for check in checks.values()), checks
    shuffled = check_compositions(pictures.roll(7, dims=0), says, references)
    assert all(shuffled[name].share < check.share - 0.3 for name, check in checks.items()), shuffled


def test_a_pair_of_one_colour_is_not_checked() -> None:
    pool = sprite_pool()
    references = ColourReferences(pool.pixels.numpy(), [sprite.base for sprite in pool.sprites])
    bases = list(dict.fromkeys(sprite.base for sprite in pool.sprites))
    assert not references.decidable(bases[0], bases[4])
    assert references.decidable(bases[0], bases[1])
    says = {
        "kind": "pair",
        "background": None,
        "recolour": None,
        "colour": None,
        "relation": "left",
        "concepts": [bases[0], bases[4]],
    }
    checks = check_compositions(torch.zeros(1, 3, 32, 32), [says], references)
    assert checks["side"].checked == 0
    assert np.isnan(checks["side"].share)
