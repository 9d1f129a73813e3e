"""A handful of drawings packed as the registry packs them: five styles, six concepts, one of them with skin tones."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from sfmobile.train.archives import read_members
from sfmobile.train.data.compose import SpritePool, load_pool
from sfmobile.train.data.packages import MEMBER_BYTES_LIMIT, Package, members_digest, pinned_packages
from sfmobile.train.data.sprites import build_cache

TONES = ["1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"]
# Lightness of the five tones, light to dark, as every style of the tests draws them.
TONE_GREY = [230, 190, 150, 110, 70]
DRAWN = {
    "1F34E": ("apple", "#e02020", 4, 42),
    "1F34B": ("lemon", "#ffd800", 4, 42),
    "1F438": ("frog", "#30b040", 3, 36),
    "1F433": ("whale", "#2860d8", 3, 38),
    "2B1B": ("tile", "#181818", 7, 80),
    "1F44B": ("waving hand", "#ffc830", 1, 16),
}


def svg(colour: str, attributes: str = "") -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" {attributes}>'
        f'<rect x="4" y="4" width="24" height="24" fill="{colour}"/></svg>'
    )


def drawings() -> dict[str, str]:
    """Hexcode -> fill colour of every drawing, tones included, as their code points mean them."""
    fills = {code: fill for code, (_, fill, _, _) in DRAWN.items()}
    for tone, grey in zip(TONES, TONE_GREY, strict=True):
        fills[f"1F44B-{tone}"] = f"rgb({grey},{grey // 2},{grey // 4})"
    return fills


def _webp(fill: str) -> bytes:
    image = Image.new("RGBA", (256, 256), (0, 255, 0, 0))  # green that must never show
    image.paste(Image.new("RGB", (192, 192), fill), (32, 32))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True, exact=True)
    return buffer.getvalue()


def _swapped(code: str) -> str:
    return code.translate(str.maketrans("", "")).replace("1F3FC", "_").replace("1F3FD", "1F3FC").replace("_", "1F3FD")


def _emojibase() -> bytes:
    entries = []
    for code, (label, _, group, subgroup) in DRAWN.items():
        entry = {"label": label, "hexcode": code, "tags": ["thing", label], "group": group, "subgroup": subgroup}
        if code == "1F44B":
            entry["skins"] = [
                {"label": label, "hexcode": f"{code}-{tone}", "tone": n + 1} for n, tone in enumerate(TONES)
            ]
            entry["skins"].append({"label": label, "hexcode": f"{code}-1F3FB-1F3FC", "tone": [1, 2]})
        entries.append(entry)
    entries.append({"label": "regional indicator A", "hexcode": "1F1E6"})
    return json.dumps(entries).encode()


def members_of(role: str) -> dict[str, bytes]:
    fills = drawings()
    if role == "captions":
        return {"en/data.json": _emojibase()}
    if role == "3d":
        return {f"assets/{_swapped(code).lower()}.webp": _webp(fill) for code, fill in fills.items()}
    if role == "glossy":
        return {f"assets/{_swapped(code).lower()}.svg": svg(fill).encode() for code, fill in fills.items()}
    names = {code.lower(): f"icon-{code.lower()}" for code in fills}
    icons = {names[code.lower()]: {"body": svg(fill).split(">", 1)[1][:-6]} for code, fill in fills.items()}
    # One drawing is stored as its mirrored parent.
    body = '<path d="M4 4h12v24H4z" fill="#30b040"/>'
    icons["half"] = {"body": body}
    del icons["icon-1f438"]
    aliases = {"icon-1f438": {"parent": "half", "hFlip": True}}
    icon_set = {"prefix": role, "width": 32, "height": 32, "icons": icons, "aliases": aliases}
    files = {"icons.json": json.dumps(icon_set).encode(), "chars.json": json.dumps(names).encode()}
    return files if role != "retro" else {"icons.json": files["icons.json"]}


def write_tarball(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in {"package.json": b"{}", **members}.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def pin_to(path: Path, package: Package) -> Package:
    """The package's pin, with the hashes of the tarball at `path`."""
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    members = read_members(path, "a test package", re.compile(package.members), "package/", most=MEMBER_BYTES_LIMIT)
    return replace(package, integrity=integrity, members_sha256=members_digest(members))


@pytest.fixture(scope="session")
def tarballs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Package, ...]]:
    """A directory of tarballs named as the registry's, and pins to them."""
    directory = tmp_path_factory.mktemp("packages")
    pins = []
    for package in pinned_packages():
        path = directory / package.tarball
        write_tarball(path, members_of(package.role))
        pins.append(pin_to(path, package))
    return directory, tuple(pins)


@pytest.fixture(scope="session")
def index(tarballs: tuple[Path, tuple[Package, ...]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory, pins = tarballs
    return build_cache(directory, tmp_path_factory.mktemp("cache"), packages=pins, workers=1)


@pytest.fixture(scope="session")
def pool(index: Path) -> SpritePool:
    return load_pool(index, splits=("train", "judge", "held_out"))
