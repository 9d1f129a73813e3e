"""A contact sheet: a batch of pictures with their captions, for a person to look at."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor


def write_contact_sheet(images: Tensor, captions: Sequence[str], path: Path, columns: int = 8) -> Path:
    """Write images (B, 3, H, W) in [-1, 1] as one PNG with each caption below its picture."""
    from PIL import Image, ImageDraw

    height, width = images.shape[-2:]
    pixels = images.detach().add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    gap, text = 8, 40
    rows = -(-len(captions) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap + text) + gap), (225, 225, 225))
    pen = ImageDraw.Draw(sheet)
    for number, (picture, caption) in enumerate(zip(pixels, captions, strict=True)):
        x = gap + number % columns * (width + gap)
        y = gap + number // columns * (height + gap + text)
        sheet.paste(Image.fromarray(picture), (x, y))
        pen.multiline_text((x, y + height + 2), textwrap.fill(caption, width // 6)[:140], fill=(0, 0, 0), font_size=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path
