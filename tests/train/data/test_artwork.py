from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfmobile.errors import ArtifactError
from sfmobile.train.data.artwork import SIZE, STYLES, Artwork, find_artwork, rasterise
from sfmobile.train.data.captions import read_concepts
from sfmobile.train.data.packages import Package, read_sources
from tests.train.data.conftest import TONE_GREY, TONES, drawings, svg


def _find(tarballs: tuple[Path, tuple[Package, ...]]) -> dict[str, dict[str, Artwork]]:
    sources = read_sources(*tarballs)
    return find_artwork(sources, read_concepts(sources["captions"]))


def test_every_captioned_drawing_is_found_in_every_style(tarballs: tuple[Path, tuple[Package, ...]]):
    found = _find(tarballs)
    assert {style: set(codes) for style, codes in found.items()} == {style: set(drawings()) for style in STYLES}


@pytest.mark.parametrize("style", STYLES)
def test_skin_tones_darken_from_light_to_dark_in_every_style(tarballs: tuple[Path, tuple[Package, ...]], style: str):
    found = _find(tarballs)[style]
    middles = [int(rasterise(found[f"1F44B-{tone}"])[0, SIZE // 2, SIZE // 2]) for tone in TONES]
    assert middles == TONE_GREY


def test_a_mirrored_alias_is_drawn_mirrored(tarballs: tuple[Path, tuple[Package, ...]]):
    alpha = rasterise(_find(tarballs)["cartoon"]["1F438"])[3]
    assert alpha[:, : SIZE // 2].max() == 0 and alpha[:, SIZE // 2 :].max() == 255


@pytest.mark.parametrize("size", [32, 100])
def test_svg_fills_the_square_whatever_size_it_names_itself(size: int):
    pixels = rasterise(Artwork("svg", svg("#ff0000", f'width="{size}" height="{size}"').encode()))
    assert pixels.shape == (4, SIZE, SIZE) and pixels.dtype == np.uint8
    opaque = np.argwhere(pixels[3] > 128)
    assert opaque.min() == SIZE * 4 // 32 and opaque.max() == SIZE * 28 // 32 - 1


def test_the_invisible_colour_of_transparent_pixels_never_shows():
    straight = np.zeros((256, 256, 4), np.uint8)
    straight[..., 1] = 255  # green, transparent
    straight[65:190, 65:190] = (255, 0, 0, 255)
    buffer = io.BytesIO()
    Image.fromarray(straight).save(buffer, "PNG")
    pixels = rasterise(Artwork("webp", buffer.getvalue()))
    assert pixels[1].max() == 0
    # An edge pixel is half covered: half the alpha and half the premultiplied red.
    assert abs(int(pixels[3, 32, 64]) - 128) <= 1 and abs(int(pixels[0, 32, 64]) - 128) <= 1


@pytest.mark.parametrize("art", [Artwork("svg", b"<svg"), Artwork("webp", b"RIFFjunk")])
def test_a_drawing_that_is_none_is_refused(art: Artwork):
    with pytest.raises(ArtifactError, match="can't be decoded"):
        rasterise(art)


def test_an_icon_set_without_icons_is_refused(tarballs: tuple[Path, tuple[Package, ...]]):
    sources = read_sources(*tarballs)
    concepts = read_concepts(sources["captions"])
    sources["retro"] = {"icons.json": b'{"prefix": "x"}'}
    with pytest.raises(ArtifactError, match="index can't be read"):
        find_artwork(sources, concepts)
