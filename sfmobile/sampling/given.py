"""A picture that is given: read from any file, brought to the size of a bundle, and what to do with it."""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from sfmobile.errors import ArtifactError, UsageError
from sfmobile.files import read_bytes
from sfmobile.sampling.choices import DEFAULT_FIT, FITS, Fit

if TYPE_CHECKING:
    from PIL import Image

PictureSource: TypeAlias = "Path | str | np.ndarray"

WHAT = "a picture (PNG, JPEG, WebP, TIFF and others)"
MEND = "name such a file"
# Half a gigabyte of pixels; no phone's camera reaches it.
MOST_PIXELS = 128_000_000
# Of a mask: this and above is drawn anew.
MASKED = 128
# Where diffusers starts an image-to-image run, and repainting.
DEFAULT_STRENGTH = 0.8
DEFAULT_PICTURE_GUIDANCE = 1.5
# The soft edge of what is pasted back, as a share of the shorter side.
EDGE = 1 / 64


@dataclass(frozen=True, eq=False)
class Given:
    """A picture to start from, to repaint or to edit.

    picture: pixels uint8 (H, W, 3) of the size that the bundle draws in. mask: bool (H, W), true where it is drawn
    anew. strength: above 0 to 1, how much of it is noise at the start; None: 0.8, and 1 with a mask. picture_guidance:
    of a model that edits, how close to keep to the picture; None: 1.5. paste: whether what the mask doesn't cover is
    put back as it was.
    """

    picture: np.ndarray
    mask: np.ndarray | None = None
    strength: float | None = None
    picture_guidance: float | None = None
    paste: bool = True

    def settings(self) -> dict[str, str | int | float]:
        """What a drawing's metadata says of it."""
        said: dict[str, str | int | float] = {"image_sha256": hashlib.sha256(self.picture.tobytes()).hexdigest()}
        if self.mask is not None:
            said |= {"mask_sha256": hashlib.sha256(self.mask.tobytes()).hexdigest(), "paste": int(self.paste)}
        return said


def read_given(
    image: PictureSource,
    size: tuple[int, int],
    *,
    mask: PictureSource | None = None,
    fit: Fit = DEFAULT_FIT,
    strength: float | None = None,
    picture_guidance: float | None = None,
    paste: bool = True,
) -> tuple[Given, tuple[str, ...]]:
    """`image`, and its `mask` (white is drawn anew), brought to `size` (height, width); and in words what was done.

    Files, or pixels uint8 (H, W), (H, W, 3) or (H, W, 4).
    Raises `ArtifactError` for a file that is missing, no picture, cut or too large, `UsageError` for one that shows
    more than one picture, for a mask of another size or one that covers nothing.
    """
    if fit not in FITS:
        raise UsageError(f"Unknown fit '{fit}'; expected one of {', '.join(FITS)}.")
    opened, notes = _opened(image)
    pixels, done = _sized(opened, size, fit)
    notes += [done] if done else []
    covered = None
    if mask is not None:
        cover, of_mask = _opened(mask)
        notes += of_mask
        if cover.size != opened.size:
            raise UsageError(
                f"{_named(mask, 'The mask')} is {_by(cover.size)} pixels and the picture {_by(opened.size)}; give "
                "a mask of the picture's size."
            )
        grey, _ = _sized(cover.convert("L"), size, fit)
        covered = grey >= MASKED
        if not covered.any():
            raise UsageError(f"{_named(mask, 'The mask')} covers nothing; paint white what is to be drawn anew.")
    return Given(pixels, covered, strength, picture_guidance, paste), tuple(notes)


def to_image(pixels: np.ndarray) -> np.ndarray:
    """Pixels uint8 (H, W, 3) to an image float32 (1, 3, H, W), -1 black to 1 white."""
    unit = pixels.astype(np.float32) / np.float32(255)
    image: np.ndarray = np.float32(2) * unit.transpose(2, 0, 1)[None] - np.float32(1)
    return np.ascontiguousarray(image)


def latent_mask(mask: np.ndarray, pixels_per_latent: int) -> np.ndarray:
    """A mask (H, W) as float32 (1, 1, h, w): what it says of the upper left pixel of each latent one, as diffusers."""
    coarse: np.ndarray = mask[::pixels_per_latent, ::pixels_per_latent].astype(np.float32)[None, None]
    return coarse


def pasted(drawn: np.ndarray, given: Given) -> np.ndarray:
    """The drawn pixels uint8 (H, W, 3) where the mask covers, the picture's own everywhere else.

    The edge is soft, and within the mask: not one pixel outside changes.
    """
    if given.mask is None or not given.paste:
        return drawn
    radius = max(1, round(min(given.mask.shape) * EDGE))
    inside = given.mask.astype(np.float32)
    # A blurred straight edge is one half at the edge itself.
    share = (np.clip(np.float32(2) * blurred(inside, radius) - np.float32(1), 0, 1) * inside)[..., None]
    mixed = share * drawn.astype(np.float32) + (np.float32(1) - share) * given.picture.astype(np.float32)
    pixels: np.ndarray = np.round(mixed).astype(np.uint8)
    return pixels


def blurred(values: np.ndarray, radius: int) -> np.ndarray:
    """Means of (H, W) over squares of 2 `radius` + 1, the border repeated outside, float32."""
    width = 2 * radius + 1
    for axis in (0, 1):
        padding = [(0, 0), (0, 0)]
        padding[axis] = (radius + 1, radius)
        sums = np.cumsum(np.pad(values, padding, mode="edge"), axis=axis, dtype=np.float64)
        end = np.take(sums, range(width, sums.shape[axis]), axis)
        values = ((end - np.take(sums, range(sums.shape[axis] - width), axis)) / width).astype(np.float32)
    return values


def _opened(source: PictureSource) -> tuple[Image.Image, list[str]]:
    """A single upright RGB picture, and what was done to it."""
    from PIL import Image, ImageOps

    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim not in (2, 3) or source.shape[2:] not in ((), (3,), (4,)):
            raise UsageError(f"Pixels of {source.dtype} {source.shape} are no picture; expected uint8 (H, W, 3).")
        return _flattened(Image.fromarray(source), "The picture")
    path = Path(source)
    content = read_bytes(path, WHAT, MEND)
    try:
        with warnings.catch_warnings():
            # Its size is looked at below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content))
    except Image.DecompressionBombError as error:
        raise _too_large(path, "more") from error
    # PIL raises whatever its many readers meet.
    except Exception as error:
        raise ArtifactError(f"'{path}' is no readable picture: expected {WHAT}; {MEND}.") from error
    if image.width * image.height > MOST_PIXELS:
        raise _too_large(path, f"{image.width * image.height / 1e6:.0f} million")
    try:
        frames = int(getattr(image, "n_frames", 1))
        if frames > 1:
            raise UsageError(f"'{path}' holds {frames} pictures (an animation or pages); give a file of one.")
        image.load()
        upright = ImageOps.exif_transpose(image)
    except UsageError:
        raise
    except Exception as error:
        raise ArtifactError(f"'{path}' is damaged ({_first_line(error)}): expected {WHAT}; copy it again.") from error
    found, notes = _flattened(upright, f"'{path}'")
    turned = upright.size != image.size or image.getexif().get(0x0112, 1) != 1
    return found, [f"'{path}' was turned upright, as its metadata says"] * turned + notes


def _flattened(image: Image.Image, name: str) -> tuple[Image.Image, list[str]]:
    """RGB of any mode, transparent parts on white. Raises `UsageError` for numbers that are no colours."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB"), [
            f"{name} has 16 bits a value, of which the upper 8 are used"
        ]
    if image.mode in ("I", "F"):
        raise UsageError(f"{name} holds numbers of 32 bits, not colours; save it with 8 or 16 bits a value.")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        full = image.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", full.size, "white"), full).convert("RGB")
        opaque = full.getchannel("A").getextrema()[0] == 255
        return flat, [] if opaque else [f"{name} is transparent in parts, which are white now"]
    notes = [f"{name} is {image.mode}, turned into RGB without its colour profile"] if image.mode == "CMYK" else []
    return image.convert("RGB"), notes


def _sized(image: Image.Image, size: tuple[int, int], fit: Fit) -> tuple[np.ndarray, str]:
    """Pixels of `size`, and in words what was done; nothing if it had that size."""
    from PIL import Image

    height, width = size
    if image.size == (width, height):
        return np.asarray(image), ""
    by = [width / image.width, height / image.height]
    scale = max(by) if fit == "fill" else min(by)
    scaled = (width, height)
    if fit != "stretch":
        scaled = (max(1, math.floor(image.width * scale + 0.5)), max(1, math.floor(image.height * scale + 0.5)))
    resized = rescaled(image, scaled, Image.Resampling.LANCZOS)
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    # Outside the picture a mask covers nothing, and a picture is white.
    canvas = Image.new(image.mode, (width, height), "white" if image.mode == "RGB" else 0)
    canvas.paste(resized, (-left, -top))
    ending = {"fill": "cut to", "fit": "laid on white of", "stretch": "stretched to"}[fit]
    done = f"The picture of {_by(image.size)} was {ending} {width}x{height}"
    if fit != "stretch":
        done = f"The picture of {_by(image.size)} was scaled to {_by(scaled)}"
        done += "" if scaled == (width, height) else f" and {ending} {width}x{height}"
    return np.asarray(canvas), done


def rescaled(image: Image.Image, size: tuple[int, int], kernel: Image.Resampling) -> Image.Image:
    """The picture in another size (width, height), rows first, as Swift does.

    In two calls: Pillow 13 begins with the columns of some tall pictures, earlier ones with none.
    """
    return image.resize((size[0], image.height), kernel).resize(size, kernel)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _named(source: PictureSource, otherwise: str) -> str:
    return otherwise if isinstance(source, np.ndarray) else f"'{source}'"


def _too_large(path: Path, found: str) -> ArtifactError:
    return ArtifactError(
        f"'{path}' unpacks to {found} pixels: expected at most {MOST_PIXELS // 1_000_000} million; make it smaller."
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
