from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfmobile.train.data.colours import COLOURS, JITTER, NAMES, RECOLOURS, clear_colour, colour_names, hsv, says_colour
from sfmobile.train.data.recolour import recolour_row, recoloured, true_recolours

channel = st.integers(0, 255)


@pytest.mark.parametrize("name", [name for name in COLOURS if name != "white"])
def test_every_background_value_bears_its_name_whatever_the_jitter(name: str):
    shifts = np.linspace(-JITTER, JITTER, 41)[:, None]
    values = (np.array(COLOURS[name]) + shifts).clip(0, 255).astype(np.float32) / 255
    assert {NAMES[number] for number in colour_names(values)} == {name}


@given(channel, channel, channel)
def test_hsv_is_that_of_the_standard_library(red: int, green: int, blue: int):
    hue, saturation, value = hsv(np.array([red, green, blue], np.float32) / 255)
    expected = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
    np.testing.assert_allclose([hue / 360 % 1, saturation, value], [expected[0] % 1, *expected[1:]], atol=1e-5)


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        ((255, 176, 46), None),  # amber: orange to one, yellow to another
        ((230, 30, 30), "red"),
        ((130, 30, 60), None),
        ((110, 70, 75), None),
        ((40, 100, 220), "blue"),
        ((120, 75, 40), "brown"),
        ((90, 150, 170), None),  # steel
        ((128, 128, 128), "grey"),
    ],
)
def test_only_undisputed_colours_are_named(rgb: tuple[int, int, int], expected: str | None):
    assert clear_colour(np.array(rgb, np.float32) / 255) == expected


def test_phrases_that_speak_of_colour_are_known():
    assert says_colour("light blue heart") and says_colour("gold-coloured coin") and not says_colour("umbrella")


def _disc(rgb: tuple[float, float, float], alpha: float = 1.0) -> torch.Tensor:
    sprite = torch.zeros(1, 4, 32, 32)
    for plane, value in enumerate((*rgb, 1.0)):
        sprite[0, plane, 4:28, 4:28] = value * alpha
    return sprite


@pytest.mark.parametrize("name", list(RECOLOURS))
def test_a_recoloured_sprite_bears_the_new_name(name: str):
    painted = recoloured(_disc((0.9, 0.15, 0.15)), torch.tensor([recolour_row(0.0, RECOLOURS[name])]))
    middle = painted[0, :3, 16, 16].numpy()
    assert NAMES[int(colour_names(middle))] == name


@settings(deadline=None)
@given(
    st.tuples(*[st.floats(0.05, 1)] * 3),
    st.floats(0.2, 1),
    st.floats(0, 359),
    st.sampled_from(list(RECOLOURS)),
)
def test_recolouring_commutes_with_alpha(rgb: tuple[float, float, float], alpha: float, hue: float, name: str):
    rows = torch.tensor([recolour_row(hue, RECOLOURS[name])])
    opaque = recoloured(_disc(rgb), rows)
    torch.testing.assert_close(recoloured(_disc(rgb, alpha), rows), opaque * alpha, atol=1e-3, rtol=0)
    assert float(opaque[:, :3].max()) <= 1 + 1e-6 and float(opaque.min()) >= 0


def test_other_hues_and_greys_keep_their_colour():
    rows = torch.tensor([recolour_row(0.0, RECOLOURS["blue"])])
    for rgb in ((0.1, 0.8, 0.2), (0.5, 0.5, 0.5), (1.0, 1.0, 1.0)):
        sprite = _disc(rgb)
        torch.testing.assert_close(recoloured(sprite, rows), sprite, atol=1e-6, rtol=0)


def test_only_colours_that_show_are_offered():
    red = (_disc((0.9, 0.1, 0.1)) * 255).byte().numpy()
    half_grey = red.copy()
    half_grey[:, :3, :, 16:] = 128
    half_grey[:, :3, 28:] = half_grey[:, :3, :4] = 0
    assert true_recolours(red, np.array([0.0], np.float32)) == [tuple(RECOLOURS)]
    assert "blue" not in true_recolours(half_grey, np.array([0.0], np.float32))[0]
