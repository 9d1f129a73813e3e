from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from sfmobile.errors import ArtifactError, UsageError
from sfmobile.sampling.picture import SETTINGS_KEYWORD, Picture, read_settings, to_pixels

SETTINGS = {"prompt": "a naïve 猫 “cat” 😀\n\u0000", "seed": 2**63, "guidance_scale": 7.5, "steps": 8}


def pixels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def test_pixels_are_those_of_diffusers() -> None:
    import torch

    image = np.random.default_rng(0).normal(0, 0.8, (1, 3, 32, 48)).astype(np.float32)
    expected = VaeImageProcessor().postprocess(torch.from_numpy(image), output_type="pil")[0]
    assert np.array_equal(to_pixels(image), np.asarray(expected))


def test_every_byte_survives_its_way_to_float_and_back() -> None:
    values = np.arange(256, dtype=np.float32).reshape(1, 1, 16, 16).repeat(3, axis=1) / 127.5 - 1
    assert np.array_equal(to_pixels(values)[..., 0].ravel(), np.arange(256))


def test_what_exceeds_white_and_black_is_clamped() -> None:
    image = np.array([-9.0, -1.0, 0.0, 1.0, 9.0], np.float32).reshape(1, 1, 1, 5).repeat(3, axis=1)
    assert to_pixels(image)[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_a_saved_picture_keeps_its_pixels_and_its_settings(tmp_path: Path) -> None:
    Picture(pixels(), SETTINGS).save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), pixels())
    assert read_settings(tmp_path / "a.png") == SETTINGS


def test_equal_pictures_are_equal_bytes() -> None:
    reordered = dict(reversed(SETTINGS.items()))
    assert Picture(pixels(), SETTINGS).png() == Picture(pixels(), reordered).png()
    assert Picture(pixels(), SETTINGS).png() != Picture(pixels(), {**SETTINGS, "seed": 1}).png()


def test_only_png_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.jpg should end in \.png"):
        Picture(pixels()).save(tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())


def test_a_place_that_can_not_be_written_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(UsageError, match=r"a\.png' can't be written .it is a directory.; choose another place"):
        Picture(pixels()).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"absent/a\.png' can't be written"):
        Picture(pixels()).save(tmp_path / "absent" / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, '{"seed": NaN}', '{"seed": ' + "1" * 5000 + "}", "[1]", '{"seed": [1]}']
)
def test_settings_that_are_none_are_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    from PIL import PngImagePlugin

    path = tmp_path / "a.png"
    info = PngImagePlugin.PngInfo()
    info.add_itxt(SETTINGS_KEYWORD, text)
    Image.fromarray(pixels()).save(path, pnginfo=info)
    with pytest.raises(ArtifactError, match=r"The text 'sfmobile' in '.*/a\.png' is ") as refusal:
        read_settings(path)
    assert "\n" not in str(refusal.value)


def test_a_pipe_is_no_picture_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ArtifactError, match=r"a\.png' is no regular file"):
        read_settings(tmp_path / "a.png")


def test_files_without_settings_are_refused(tmp_path: Path) -> None:
    Image.fromarray(pixels()).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ArtifactError, match=r"plain\.png' holds no settings"):
        read_settings(tmp_path / "plain.png")
    with pytest.raises(ArtifactError, match=r"text\.png' is no readable picture: expected a PNG that sfmobile wrote"):
        read_settings(tmp_path / "text.png")
    with pytest.raises(ArtifactError, match=r"absent\.png' doesn't exist: expected a PNG that sfmobile wrote"):
        read_settings(tmp_path / "absent.png")
