"""Pictures: float images to pixels, and PNG files that know how they were made."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sfmobile.errors import ArtifactError, UsageError
from sfmobile.files import parse_json, read_bytes, validated, write_bytes

Settings = Mapping[str, str | int | float]

# PNG text keyword under which the settings stand, as JSON.
SETTINGS_KEYWORD = "sfmobile"


@dataclass(frozen=True)
class Picture:
    """Pixels uint8 (H, W, 3) and the settings that made them."""

    pixels: np.ndarray
    settings: Settings = field(default_factory=dict)

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        return self.png()

    def png(self) -> bytes:
        """The PNG file, settings as JSON in its text metadata; without dates, so equal pictures are equal bytes."""
        from PIL import Image, PngImagePlugin

        info = PngImagePlugin.PngInfo()
        info.add_itxt("Software", "sfmobile")
        info.add_itxt(SETTINGS_KEYWORD, json.dumps(dict(self.settings), ensure_ascii=False, sort_keys=True))
        buffer = io.BytesIO()
        Image.fromarray(self.pixels, mode="RGB").save(buffer, format="PNG", pnginfo=info, compress_level=9)
        return buffer.getvalue()

    def save(self, path: Path | str) -> None:
        """Write the PNG file, whole or not at all.

        Raises `UsageError` if `path` isn't a writable .png, `UnavailableError` if the disk is full.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise UsageError(f"{path} should end in .png, the only format pictures are written in.")
        write_bytes(path, self.png())


def sheet(pictures: Sequence[Picture]) -> Picture:
    """Pictures of one size side by side, in rows of four; the settings are the first one's with all prompts."""
    columns = min(len(pictures), 4)
    rows = -(-len(pictures) // columns)
    height, width, _ = pictures[0].pixels.shape
    pixels = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        pixels[row * height : (row + 1) * height, column * width : (column + 1) * width] = picture.pixels
    prompts = " | ".join(str(picture.settings["prompt"]) for picture in pictures)
    return Picture(pixels, {**pictures[0].settings, "prompt": prompts})


def labelled_sheet(rows: Sequence[tuple[str, Sequence[Picture]]], columns: Sequence[str]) -> Picture:
    """Pictures of one size in rows and columns with their labels; the settings are the first one's."""
    from PIL import Image, ImageDraw, ImageFont

    height, width, _ = rows[0][1][0].pixels.shape
    size = max(11, min(width // 10, 28))
    font = ImageFont.load_default(size=size)
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    margin = max(int(ruler.textlength(label, font=font)) for label, _ in rows) + 12
    top = size + 10
    canvas = Image.new("RGB", (margin + len(columns) * (width + 2), top + len(rows) * (height + 2)), "white")
    draw = ImageDraw.Draw(canvas)
    for column, label in enumerate(columns):
        draw.text((margin + column * (width + 2) + width / 2, top / 2), label, "black", font, anchor="mm")
    for row, (label, pictures) in enumerate(rows):
        y = top + row * (height + 2)
        draw.text((margin - 6, y + height / 2), label, "black", font, anchor="rm")
        for column, picture in enumerate(pictures):
            canvas.paste(Image.fromarray(picture.pixels, mode="RGB"), (margin + column * (width + 2), y))
    return Picture(np.asarray(canvas), rows[0][1][0].settings)


def to_pixels(image: np.ndarray) -> np.ndarray:
    """Image (1, 3, H, W), -1 black to 1 white, to pixels uint8 (H, W, 3), clamped and rounded as diffusers does."""
    unit = np.clip(image[0].transpose(1, 2, 0) / np.float32(2) + np.float32(0.5), 0, 1)
    pixels: np.ndarray = np.round(unit * np.float32(255)).astype(np.uint8)
    return pixels


def read_settings(path: Path) -> dict[str, str | int | float]:
    """The settings in a picture's metadata. Raises `ArtifactError` if it has none."""
    from PIL import Image

    what, mend = "a PNG that sfmobile wrote", "name such a picture"
    content = read_bytes(path, what, mend)
    try:
        with Image.open(io.BytesIO(content)) as image:
            text = image.info.get(SETTINGS_KEYWORD)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ArtifactError(f"'{path}' is no readable picture: expected {what}; {mend}.") from error
    if not isinstance(text, str):
        raise ArtifactError(f"'{path}' holds no settings: expected {what}; {mend}.")
    where = f"The text '{SETTINGS_KEYWORD}' in '{path}'"
    settings = parse_json(text, where, "the settings of a picture", mend)
    return validated(dict[str, str | int | float], settings, where, "the settings of a picture", mend)
