"""Where each style's drawing of a concept is found in its package, and how it becomes 128 px RGBA."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfmobile.errors import ArtifactError, UnavailableError
from sfmobile.train.data.captions import Concept, normalise

# Style word (as a person would type it) of each package's art: shaded 3D renders, gradients with highlights, plain
# fills, Noto's drawings with outlines of colour, and their 2013-2017 predecessors.
STYLES = ("3d", "glossy", "flat", "cartoon", "retro")
SIZE = 128
# The 3D and gradient packages store the drawing of U+1F3FC under U+1F3FD and the other way round.
_SWAPPED_TONES = {"1F3FC": "1F3FD", "1F3FD": "1F3FC"}
_SWAPPED_STYLES = ("3d", "glossy")
# Drawings filed under a name that means something else: Noto v1's "cricket" is the game.
_MISFILED = {("retro", "1F997")}


@dataclass(frozen=True)
class Artwork:
    """One drawing as its package stores it: `kind` "svg" or "webp", and how an alias turns its parent."""

    kind: str
    data: bytes
    flip_horizontal: bool = False
    flip_vertical: bool = False
    quarter_turns: int = 0


def find_artwork(
    sources: Mapping[str, Mapping[str, bytes]], concepts: Mapping[str, Concept]
) -> dict[str, dict[str, Artwork]]:
    """Style -> normalised hexcode -> drawing, for every drawing that has a caption.

    Raises:
        ArtifactError: a package's index can't be read.
    """
    found: dict[str, dict[str, Artwork]] = {}
    try:
        names = {normalise(code): name for code, name in json.loads(sources["cartoon"]["chars.json"]).items()}
        flat_names = {normalise(code): name for code, name in json.loads(sources["flat"]["chars.json"]).items()}
        for style in STYLES:
            if style in _SWAPPED_STYLES:
                drawings = _from_files(sources[style])
            else:
                by_code = flat_names if style == "flat" else names
                drawings = _from_icon_set(json.loads(sources[style]["icons.json"]), by_code)
            found[style] = {
                code: art for code, art in drawings.items() if code in concepts and (style, code) not in _MISFILED
            }
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ArtifactError(f"an icon set's index can't be read ({error!r}); fetch the packages again") from error
    return found


def _from_files(members: Mapping[str, bytes]) -> dict[str, Artwork]:
    drawings = {}
    for name, data in members.items():
        stem, kind = name.removeprefix("assets/").rsplit(".", 1)
        parts = [_SWAPPED_TONES.get(part, part) for part in normalise(stem).split("-")]
        drawings["-".join(parts)] = Artwork(kind, data)
    return drawings


def _from_icon_set(icon_set: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Artwork]:
    """An Iconify set (https://iconify.design/docs/types/iconify-json.html): bodies by name, aliases that turn them."""
    drawings = {}
    for code, name in names.items():
        alias = icon_set.get("aliases", {}).get(name, {})
        icon = icon_set["icons"].get(alias.get("parent", name))
        if icon is None:
            continue
        width, height = (icon.get(side, icon_set.get(side, 16)) for side in ("width", "height"))
        size = (
            f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}" width="{width}" height="{height}"'
        )
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{icon["body"]}</svg>'
        drawings[code] = Artwork(
            "svg", svg.encode(), alias.get("hFlip", False), alias.get("vFlip", False), alias.get("rotate", 0)
        )
    return drawings


def rasterise(art: Artwork, size: int = SIZE) -> NDArray[np.uint8]:
    """The drawing as (4, size, size) uint8 with colour already multiplied by alpha.

    Premultiplied, because every resampling afterwards (here, and in the compositions) is right only then: averaging
    straight colour lets the invisible colour of transparent pixels bleed into the edges.

    Raises:
        UnavailableError: resvg_py is not installed.
        ArtifactError: the drawing can't be decoded.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        encoded = _svg_to_png(art.data.decode(), size) if art.kind == "svg" else art.data
        with Image.open(io.BytesIO(encoded)) as image:
            straight = np.asarray(image.convert("RGBA"), dtype=np.float32) / 255
    except (ValueError, UnidentifiedImageError, OSError) as error:
        raise ArtifactError(f"a drawing can't be decoded ({error}); fetch the packages again") from error
    premultiplied = straight.copy()
    premultiplied[..., :3] *= straight[..., 3:]
    if straight.shape[:2] != (size, size):
        planes = [
            np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BOX))
            for plane in np.ascontiguousarray(premultiplied.transpose(2, 0, 1))
        ]
        premultiplied = np.stack(planes, axis=-1)
    if art.flip_horizontal:
        premultiplied = premultiplied[:, ::-1]
    if art.flip_vertical:
        premultiplied = premultiplied[::-1]
    premultiplied = np.rot90(premultiplied, -art.quarter_turns)
    return np.ascontiguousarray(np.rint(premultiplied * 255).clip(0, 255).astype(np.uint8).transpose(2, 0, 1))


def _svg_to_png(svg: str, size: int) -> bytes:
    try:
        import resvg_py
    except ImportError as error:
        raise UnavailableError("rasterising SVG needs resvg_py; install it with `pip install resvg_py`") from error
    # System fonts would make the result differ between machines.
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True))
