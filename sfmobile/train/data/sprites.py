"""The sprite cache: every captioned drawing rasterised once, with what is known of it, in two files.

``sprites-<key>.safetensors`` holds `pixels` uint8 (N, 4, 128, 128), colour multiplied by alpha;
``sprites-<key>.json`` one record a sprite. The key is a hash of the pinned packages and of the version of this code,
so that a cache made by another version is never read by mistake.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfmobile.errors import ArtifactError
from sfmobile.files import StrictModel, atomic_write, read_json, sha256_of_file, validated, write_text
from sfmobile.train.data.artwork import SIZE, STYLES, Artwork, find_artwork, rasterise
from sfmobile.train.data.captions import Concept, read_concepts
from sfmobile.train.data.colours import NAMES, clear_colour, colour_names, hsv, says_colour
from sfmobile.train.data.packages import Package, pinned_packages, read_sources
from sfmobile.train.data.split import HELD_OUT, holds_out_tone, style_splits

# Raise when concepts, artwork, rasterising or the record change, so that older caches are rebuilt.
CACHE_VERSION = 3
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Sprite:
    """One drawing and what can be said of it truthfully.

    `colour` is the one colour that covers most of it, or None; `hue` (degrees) is set where nearly all of its colour
    is of one hue, so that it can be recoloured, truthfully to each of `recolours`; `mean` is its average visible sRGB
    colour in [0, 1].
    """

    hexcode: str
    base: str
    style: str
    phrase: str
    tags: tuple[str, ...]
    group: str
    subgroup: int
    tone: int | None
    split: str
    colour: str | None
    hue: float | None
    recolours: tuple[str, ...]
    mean: tuple[float, float, float]


class _Pixels(StrictModel):
    file: str
    sha256: str
    shape: tuple[int, ...]


class _Index(StrictModel):
    cache_version: int
    key: str
    pixels: _Pixels
    packages: tuple[dict[str, str], ...]
    sprites: tuple[Sprite, ...]


def cache_key(packages: Iterable[Package] | None = None) -> str:
    """Twelve hex digits that stand for everything the cache's content depends on."""
    pins = tuple(packages or pinned_packages())
    parts = [f"{pin.archive}:{pin.members_sha256}" for pin in pins]
    return hashlib.sha256("\n".join([str(CACHE_VERSION), str(SIZE), *parts]).encode()).hexdigest()[:12]


def build_cache(
    sources: Path,
    cache: Path,
    *,
    packages: Iterable[Package] | None = None,
    workers: int | None = None,
    progress: Progress = lambda done, total: None,
    force: bool = False,
) -> Path:
    """Rasterise everything under `cache` unless that is done already; return the index file.

    Args:
        sources: directory of package tarballs, or a packed archive.
        cache: directory for the two files; made if missing.
        packages: pins to use in place of the built-in ones.
        workers: processes; by default one a core. With 1 all happens in this process.
        progress: called with (done, total) sprites.
        force: build even if the cache is there.

    Raises:
        ArtifactError, UsageError, UnavailableError: see `packages.read_sources` and `artwork.rasterise`.
    """
    pins = tuple(packages or pinned_packages())
    index = cache / f"sprites-{cache_key(pins)}.json"
    if not force and _is_complete(index):
        return index
    members = read_sources(sources, pins)
    concepts = read_concepts(members["captions"])
    artwork = find_artwork(members, concepts)
    work = [(style, code, artwork[style][code]) for style in STYLES for code in sorted(artwork[style])]
    if not work:
        raise ArtifactError(f"{sources} holds no drawing that has a caption; expected the pinned packages' icons")
    pixels = np.empty((len(work), 4, SIZE, SIZE), np.uint8)
    measures: list[_Measure] = []
    for number, (sprite, measure) in enumerate(_rasterise_all([art for _, _, art in work], workers)):
        pixels[number] = sprite
        measures.append(measure)
        progress(number + 1, len(work))
    splits = _splits(artwork, concepts)
    sprites = [
        _describe(concepts[code], style, splits[style, code], measure)
        for (style, code, _), measure in zip(work, measures, strict=True)
    ]
    sprites = _with_recolours(sprites, pixels)
    visible = [number for number, measure in enumerate(measures) if measure.coverage > 0.01]
    _write(index, pixels[visible], [sprites[number] for number in visible], pins)
    return index


@dataclass(frozen=True)
class _Measure:
    coverage: float
    colour: str | None
    hue: float | None
    mean: tuple[float, float, float]


def _rasterise_all(art: list[Artwork], workers: int | None) -> Iterator[tuple[NDArray[np.uint8], _Measure]]:
    count = workers or os.cpu_count() or 1
    if count == 1:
        yield from map(_rasterise_one, art)
        return
    # Fresh processes: forking one that already runs torch's threads can hang.
    with multiprocessing.get_context("spawn").Pool(count) as pool:
        yield from pool.imap(_rasterise_one, art, chunksize=16)


def _rasterise_one(art: Artwork) -> tuple[NDArray[np.uint8], _Measure]:
    pixels = rasterise(art)
    return pixels, measure_colours(pixels)


def measure_colours(pixels: NDArray[np.uint8]) -> _Measure:
    """What colour one premultiplied sprite (4, H, W) has, and whether it has one hue."""
    alpha = pixels[3].astype(np.float32) / 255
    coverage = float(alpha.mean())
    opaque = alpha > 0.5
    if not opaque.any():
        return _Measure(coverage, None, None, (1.0, 1.0, 1.0))
    rgb = (pixels[:3, opaque].astype(np.float32) / 255 / alpha[opaque]).clip(0, 1).T
    red, green, blue = (float(value) for value in rgb.mean(0))
    names = colour_names(rgb)
    shares = np.bincount(names, minlength=len(NAMES)) / len(rgb)
    top = int(shares.argmax())
    common = rgb[names == top]
    colour = clear_colour(np.median(common, axis=0)) if shares[top] >= 0.55 else None
    return _Measure(coverage, colour, _single_hue(rgb), (red, green, blue))


def _single_hue(rgb: NDArray[np.float32]) -> float | None:
    """The hue in degrees that at least 70 % of the pixels have, none else being common; None otherwise."""
    hue, saturation, value = hsv(rgb)
    coloured = (saturation > 0.35) & (value > 0.35)
    if coloured.mean() < 0.7 or np.median(value[coloured]) < 0.6:
        return None
    angle = np.deg2rad(hue[coloured])
    centre = float(np.rad2deg(np.arctan2(np.sin(angle).mean(), np.cos(angle).mean())) % 360)
    distance = np.abs((hue[coloured] - centre + 180) % 360 - 180)
    return centre if (distance < 24).mean() > 0.92 else None


def _splits(
    artwork: Mapping[str, Mapping[str, Artwork]], concepts: Mapping[str, Concept]
) -> dict[tuple[str, str], str]:
    styles: dict[str, list[str]] = {}
    for style in STYLES:
        for base in sorted({concepts[code].base for code in artwork[style]}):
            styles.setdefault(base, []).append(style)
    by_style = {base: style_splits(base, names) for base, names in styles.items()}
    return {
        (style, code): HELD_OUT
        if holds_out_tone(concepts[code].base, concepts[code].tone)
        else by_style[concepts[code].base][style]
        for style in STYLES
        for code in artwork[style]
    }


def _describe(concept: Concept, style: str, split: str, measure: _Measure) -> Sprite:
    recolourable = concept.group not in ("people", "flags", "smileys") and not says_colour(concept.phrase)
    return Sprite(
        **dataclasses.asdict(concept),
        style=style,
        split=split,
        colour=measure.colour,
        hue=measure.hue if recolourable else None,
        recolours=(),
        mean=measure.mean,
    )


def _with_recolours(sprites: list[Sprite], pixels: NDArray[np.uint8]) -> list[Sprite]:
    from sfmobile.train.data.recolour import true_recolours

    rows = [number for number, sprite in enumerate(sprites) if sprite.hue is not None]
    described = list(sprites)
    for start in range(0, len(rows), 256):
        part = rows[start : start + 256]
        hues = np.array([sprites[number].hue for number in part], np.float32)
        for number, names in zip(part, true_recolours(pixels[part], hues), strict=True):
            described[number] = dataclasses.replace(sprites[number], recolours=names)
    return described


def _write(index: Path, pixels: NDArray[np.uint8], sprites: list[Sprite], pins: tuple[Package, ...]) -> None:
    from safetensors.numpy import save_file

    index.parent.mkdir(parents=True, exist_ok=True)
    data = index.with_suffix(".safetensors")
    with atomic_write(data) as draft:
        save_file({"pixels": pixels}, draft)
        digest = sha256_of_file(draft)
    record = {
        "cache_version": CACHE_VERSION,
        "key": cache_key(pins),
        "pixels": {"file": data.name, "sha256": digest, "shape": list(pixels.shape)},
        "packages": [
            {"name": pin.name, "version": pin.version, "licence": pin.licence, "copyright": pin.copyright}
            for pin in pins
        ],
        "sprites": [dataclasses.asdict(sprite) for sprite in sprites],
    }
    # In one line: thousands of sprites, a dozen fields each.
    write_text(index, json.dumps(record, ensure_ascii=False))


def _is_complete(index: Path) -> bool:
    """Whether both files are there and the pixels are those the index was written with."""
    try:
        read_index(index)
    except ArtifactError:
        return False
    return True


def read_index(index: Path, verify: bool = True) -> tuple[list[Sprite], Path]:
    """The sprites' records and the path of their pixels.

    Raises:
        ArtifactError: missing, unreadable, of another cache version, or with pixels that were altered.
    """
    what, mend = "a sprite cache's index", "build it again with `sfmobile train data`"
    raw = read_json(index, what, mend)
    version = raw.get("cache_version") if isinstance(raw, dict) else None
    if version not in (None, CACHE_VERSION):
        raise ArtifactError(f"{index} is a sprite cache of version {version}, expected {CACHE_VERSION}; {mend}")
    record = validated(_Index, raw, f"'{index}'", what, mend)
    data = index.with_name(Path(record.pixels.file).name)
    if not data.is_file():
        raise ArtifactError(f"{data} is missing: expected the pixels of {index.name}; {mend}")
    if verify and sha256_of_file(data) != record.pixels.sha256:
        raise ArtifactError(f"{data} is not what {index.name} was written with: its sha256 differs; {mend}")
    return list(record.sprites), data


def find_cache(cache: Path, packages: Iterable[Package] | None = None) -> Path:
    """The index file of the present version in the directory `cache`.

    Raises:
        ArtifactError: there is none; the sentence says if there are caches of other versions.
    """
    index = cache / f"sprites-{cache_key(packages)}.json"
    if index.is_file():
        return index
    others = sorted(path.name for path in cache.glob("sprites-*.json")) if cache.is_dir() else []
    found = f"found {', '.join(others)}, of another version" if others else "found none"
    raise ArtifactError(f"{cache} holds no sprite cache {index.name}: {found}; build it with `sfmobile train data`")
