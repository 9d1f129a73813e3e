"""A folder of pictures with captions: `name.png` beside `name.txt`, or a JSON-lines file that names both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from sfmobile.errors import ArtifactError, UsageError
from sfmobile.files import parse_json, read_text, validated

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# As the Hugging Face Hub's folders of pictures are described.
LISTING = "metadata.jsonl"
MEND = f"write name.txt beside name.png, or {LISTING} with a file_name and a text a line"


class _Line(BaseModel):
    model_config = ConfigDict(extra="ignore")

    file_name: str
    text: str


@dataclass(frozen=True)
class Captioned:
    """A picture's file and what it shows."""

    path: Path
    caption: str


def read_folder(folder: Path) -> tuple[Captioned, ...]:
    """All pictures of a folder with their captions, by file name.

    Raises `UsageError` for a folder without any, `ArtifactError` naming the picture without a caption, the caption
    that is empty, or the line of the listing that can't be read.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise UsageError(f"'{folder}' is no folder of pictures: expected a directory, found {found}.")
    listing = folder / LISTING
    pictures = tuple(_listed(folder, listing) if listing.is_file() else _beside(folder))
    if not pictures:
        raise UsageError(f"'{folder}' holds no pictures ({', '.join(SUFFIXES)}); {MEND}.")
    for one in pictures:
        if not one.caption:
            raise ArtifactError(f"The caption of '{one.path}' is empty; say what the picture shows.")
    return pictures


def _beside(folder: Path) -> Iterator[Captioned]:
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES:
            continue
        text = path.with_suffix(".txt")
        if not text.is_file():
            raise ArtifactError(f"'{path}' has no caption: expected '{text.name}' beside it; {MEND}.")
        yield Captioned(path, " ".join(read_text(text, "a caption", "write what the picture shows").split()))


def _listed(folder: Path, listing: Path) -> Iterator[Captioned]:
    what = "a list of pictures with captions, a JSON object a line"
    for number, line in enumerate(read_text(listing, what, MEND).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"Line {number} of '{listing}'"
        found = validated(_Line, parse_json(line, where, what, MEND), where, what, MEND)
        path = folder / found.file_name
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            raise ArtifactError(f"{where} names '{found.file_name}', which isn't in the folder; {MEND}.")
        yield Captioned(path, " ".join(found.text.split()))
