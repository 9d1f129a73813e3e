"""Pictures of every kind that people have, brought to a bundle's size, and what is no such picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfmobile.errors import ArtifactError, SfmobileError, UsageError
from sfmobile.sampling import given as module
from sfmobile.sampling.given import blurred, latent_mask, read_given, to_image

RED, WHITE = (255, 0, 0), (255, 255, 255)


def halves(width: int = 24, height: int = 16) -> Image.Image:
    """Red on the left, blue on the right, a white line on top."""
    image = Image.new("RGB", (width, height), "blue")
    image.paste("red", (0, 0, width // 2, height))
    image.paste("white", (0, 0, width, 2))
    return image


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def test_a_picture_of_the_size_is_taken_as_it_is(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", halves())
    given, notes = read_given(path, (16, 24))
    assert np.array_equal(given.picture, np.asarray(halves())) and notes == ()
    assert np.array_equal(read_given(np.asarray(halves()), (16, 24))[0].picture, given.picture)


def test_any_size_is_brought_to_the_bundles_and_said(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", halves(96, 32))
    filled, notes = read_given(path, (32, 32), fit="fill")
    # The middle third: half red, half blue.
    assert notes == ("The picture of 96x32 was scaled to 96x32 and cut to 32x32",)
    assert tuple(filled.picture[20, 2]) == RED and tuple(filled.picture[20, 29]) == (0, 0, 255)
    fitted, notes = read_given(path, (48, 48), fit="fit")
    assert notes == ("The picture of 96x32 was scaled to 48x16 and laid on white of 48x48",)
    assert (fitted.picture[:15] == 255).all() and tuple(fitted.picture[28, 4]) == RED
    stretched, notes = read_given(path, (48, 48), fit="stretch")
    assert notes == ("The picture of 96x32 was stretched to 48x48",)
    expected = Image.open(path).resize((48, 48), Image.Resampling.LANCZOS)
    assert np.array_equal(stretched.picture, np.asarray(expected))
    with pytest.raises(UsageError, match="Unknown fit 'crop'; expected one of fill, fit, stretch"):
        read_given(path, (48, 48), fit="crop")  # type: ignore[arg-type]


def test_a_photo_is_turned_as_the_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: to be shown a quarter to the right
    path = saved(tmp_path / "a.png", halves(), exif=exif)
    given, (note,) = read_given(path, (24, 16))
    assert "was turned upright" in note
    assert np.array_equal(given.picture, np.asarray(halves().rotate(-90, expand=True)))


def test_what_is_transparent_is_white_and_said(tmp_path: Path) -> None:
    image = halves().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 255))
    opaque = saved(tmp_path / "opaque.png", image)
    assert read_given(opaque, (16, 24))[1] == ()
    image.paste((255, 0, 0, 0), (0, 8, 24, 16))
    given, (note,) = read_given(saved(tmp_path / "a.png", image), (16, 24))
    assert "transparent in parts, which are white now" in note
    assert (given.picture[8:] == 255).all() and tuple(given.picture[4, 2]) == RED
    palette = halves().convert("P")
    palette.info["transparency"] = palette.getpixel((2, 8))
    given, (note,) = read_given(saved(tmp_path / "p.png", palette), (16, 24))
    assert tuple(given.picture[8, 2]) == WHITE and "transparent" in note


def test_other_colours_and_depths_are_read_or_refused(tmp_path: Path) -> None:
    ramp = np.arange(16 * 24, dtype=np.uint16).reshape(16, 24) * 170
    deep = saved(tmp_path / "deep.png", Image.fromarray(ramp))
    given, (note,) = read_given(deep, (16, 24))
    assert "16 bits a value" in note and np.array_equal(given.picture[..., 0], ramp >> 8)
    printed = saved(tmp_path / "cmyk.jpg", Image.new("RGB", (24, 16), "red").convert("CMYK"), quality=95)
    given, (note,) = read_given(printed, (16, 24))
    assert "is CMYK" in note and np.abs(given.picture.astype(int) - RED).max() < 40
    grey = saved(tmp_path / "grey.png", halves().convert("L"))
    assert np.array_equal(read_given(grey, (16, 24))[0].picture[..., 1], np.asarray(halves().convert("L")))
    numbers = saved(tmp_path / "numbers.tiff", Image.fromarray(ramp.astype(np.float32)))
    with pytest.raises(UsageError, match=r"numbers.tiff' holds numbers of 32 bits, not colours"):
        read_given(numbers, (16, 24))


def bomb(path: Path) -> Path:
    """A PNG that says 40,000 pixels a side in its header."""
    halves().save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = (40_000).to_bytes(4, "big") * 2
    import zlib

    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    return path


def cut(path: Path) -> Path:
    halves(200, 200).save(path, quality=95)
    path.write_bytes(path.read_bytes()[:700])
    return path


def animated(path: Path) -> Path:
    return saved(path, halves(), save_all=True, append_images=[halves().rotate(180)])


def text(path: Path) -> Path:
    path.write_text("no picture")
    return path


BAD: dict[str, tuple[str, Callable[[Path], Path], type[SfmobileError], str]] = {
    "nothing": ("a.png", lambda path: path, ArtifactError, "a.png"),
    "a folder": ("", lambda path: path, ArtifactError, ""),
    "no picture": ("a.png", text, ArtifactError, "is no readable picture"),
    "cut": ("a.jpg", cut, ArtifactError, "is damaged"),
    "an animation": ("a.gif", animated, UsageError, "holds 2 pictures"),
    "a bomb": ("a.png", bomb, ArtifactError, "unpacks to more pixels: expected at most 128 million"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_single_picture_is_refused(name: str, tmp_path: Path) -> None:
    file, make, error, message = BAD[name]
    with pytest.raises(error, match=message) as raised:
        read_given(make(tmp_path / file), (16, 24))
    assert "\n" not in str(raised.value)


def test_more_pixels_than_a_camera_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PIXELS", 1_000)
    with pytest.raises(ArtifactError, match=r"unpacks to 0 million pixels"):
        read_given(saved(tmp_path / "a.png", halves(50, 40)), (16, 24))


def test_a_mask_goes_with_its_picture(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", halves(48, 16))
    cover = Image.new("L", (48, 16))
    cover.paste(255, (24, 0, 48, 16))
    mask = saved(tmp_path / "mask.png", cover)
    given, _ = read_given(path, (16, 16), mask=mask)
    assert given.mask is not None and given.mask.dtype == bool
    assert not given.mask[:, :8].any() and given.mask[:, 8:].all()
    # What is laid around the picture stays as it is.
    fitted, _ = read_given(path, (48, 48), mask=mask, fit="fit")
    assert fitted.mask is not None and not fitted.mask[:16].any() and not fitted.mask[32:].any()
    with pytest.raises(UsageError, match=r"mask.png' is 48x16 pixels and the picture 24x16; give a mask of"):
        read_given(saved(tmp_path / "b.png", halves()), (16, 24), mask=mask)
    with pytest.raises(UsageError, match="The mask covers nothing; paint white"):
        read_given(path, (16, 16), mask=np.zeros((16, 48), np.uint8))
    with pytest.raises(UsageError, match=r"Pixels of float64 \(16, 48\) are no picture"):
        read_given(path, (16, 16), mask=np.zeros((16, 48)))


def test_images_and_latent_masks_are_diffusers_own() -> None:
    import torch
    from diffusers.image_processor import VaeImageProcessor

    pixels = np.asarray(halves())
    expected = VaeImageProcessor(vae_scale_factor=2).preprocess(Image.fromarray(pixels)).numpy()
    assert np.array_equal(to_image(pixels), expected)
    mask = np.random.default_rng(0).random((16, 24)) > 0.5
    coarse = torch.nn.functional.interpolate(torch.from_numpy(mask.astype(np.float32))[None, None], size=(2, 3))
    assert np.array_equal(latent_mask(mask, 8), coarse.numpy())


def test_blurring_is_the_mean_of_squares() -> None:
    values = np.random.default_rng(0).random((9, 7)).astype(np.float32)
    padded = np.pad(values, 2, mode="edge")
    expected = [[padded[y : y + 5, x : x + 5].mean() for x in range(7)] for y in range(9)]
    np.testing.assert_allclose(blurred(values, 2), expected, rtol=1e-6)
