"""Many pictures of one call: prompts × seeds × guidance × steps, what their files are called, and a sheet of them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sfmobile.errors import UsageError
from sfmobile.files import read_text
from sfmobile.sampling.picture import labelled_sheet
from sfmobile.tables import shortened

if TYPE_CHECKING:
    from sfmobile.sampling.picture import Picture

# More in one call is a slip; a run of all night can be several.
MOST_PICTURES = 10_000


@dataclass(frozen=True)
class Variant:
    """One picture of a grid. number: of its prompt, from 1. None takes the model's default.

    name: what its file's name has beside the number: "seed-3-steps-08"; column: the same for people.
    """

    number: int
    prompt: str
    seed: int
    guidance: float | None
    steps: int | None
    name: str
    column: str


@dataclass(frozen=True)
class Choices:
    """What a grid is of; all that has one value is left out of names and labels."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    guidances: tuple[float | None, ...] = (None,)
    steps: tuple[int | None, ...] = (None,)

    def variants(self) -> list[Variant]:
        """Every picture, prompts outermost. Raises `UsageError` for too many."""
        count = len(self.prompts) * len(self.seeds) * len(self.guidances) * len(self.steps)
        if count > MOST_PICTURES:
            raise UsageError(f"{count} pictures are too many for one call; expected at most {MOST_PICTURES}.")
        inner = list(itertools.product(self.seeds, self.guidances, self.steps))
        return [
            Variant(number, prompt, seed, guidance, steps, self._name(seed, guidance, steps), self._column(*values))
            for number, prompt in enumerate(self.prompts, start=1)
            for values in inner
            for seed, guidance, steps in (values,)
        ]

    @property
    def is_single(self) -> bool:
        """Whether each prompt gives one picture."""
        return len(self.seeds) * len(self.guidances) * len(self.steps) == 1

    def _name(self, seed: int, guidance: float | None, steps: int | None) -> str:
        parts = []
        if len(self.seeds) > 1:
            parts.append(f"seed-{seed:0{len(str(max(self.seeds)))}d}")
        if len(self.guidances) > 1:
            whole = max(len(f"{int(one or 0)}") for one in self.guidances)
            decimals = max(len(f"{one:g}".partition(".")[2]) for one in self.guidances if one is not None)
            width = whole + (decimals + 1 if decimals else 0)
            parts.append(f"guidance-{guidance:0{width}.{decimals}f}")
        if len(self.steps) > 1:
            parts.append(f"steps-{steps:0{max(len(str(one)) for one in self.steps)}d}")
        return "-".join(parts)

    def _column(self, seed: int, guidance: float | None, steps: int | None) -> str:
        parts = []
        if len(self.seeds) > 1 or self.is_single:
            parts.append(f"seed {seed}")
        if len(self.guidances) > 1:
            parts.append(f"guidance {guidance:g}")
        if len(self.steps) > 1:
            parts.append(f"{steps} steps")
        return ", ".join(parts)


def file_name(output: Path, variant: Variant, prompts: int, bundle: str = "") -> Path:
    """`output` itself for a single picture, else with what tells it from the others; names sort as the grid runs."""
    number = f"{variant.number:0{len(str(prompts))}d}" if prompts > 1 else ""
    parts = [part for part in (output.stem, number, bundle, variant.name) if part]
    return output.with_name(f"{'-'.join(parts)}{output.suffix}")


def grid_sheet(drawn: Sequence[tuple[str, Variant, Picture]]) -> Picture:
    """One labelled picture: a row for each prompt (and bundle, if there are several), a column for each variant.

    drawn: the bundle's name, the variant and its picture. Raises `UsageError` for pictures of several sizes.
    """
    sizes = {picture.pixels.shape[:2] for _, _, picture in drawn}
    if len(sizes) > 1:
        listed = ", ".join(f"{height}x{width}" for height, width in sorted(sizes))
        raise UsageError(f"A grid is of pictures of one size, found {listed}; draw with bundles of one --size.")
    several = len({bundle for bundle, _, _ in drawn}) > 1
    rows: dict[tuple[int, str], tuple[str, dict[str, Picture]]] = {}
    for bundle, variant, picture in drawn:
        label = f"{shortened(variant.prompt)} · {bundle}" if several else shortened(variant.prompt)
        rows.setdefault((variant.number, bundle), (label, {}))[1][variant.column] = picture
    columns = list(dict.fromkeys(variant.column for _, variant, _ in drawn))
    ordered = [rows[key] for key in sorted(rows, key=lambda key: key[0])]
    return labelled_sheet([(label, [cells[name] for name in columns]) for label, cells in ordered], columns)


def parse_seeds(text: str) -> tuple[int, ...]:
    """The seeds of "0-3,7": 0, 1, 2, 3 and 7. Raises `UsageError` for what is no such list, or names one twice."""
    found: list[int] = []
    for part in text.split(","):
        matched = re.fullmatch(r"\s*(\d{1,19})(?:-(\d{1,19}))?\s*", part)
        first, last = (int(matched[1]), int(matched[2] or matched[1])) if matched else (1, 0)
        if matched is None or last < first or last - first >= MOST_PICTURES:
            raise UsageError(f"--seeds {text} is no list of seeds; expected 0-3 or 1,5,9 say.")
        found += range(first, last + 1)
    if len(set(found)) < len(found):
        raise UsageError(f"--seeds {text} names a seed twice; name each once.")
    return tuple(found)


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a text file, one a line; empty lines and those that begin with # are none.

    Raises `UsageError` if there are none, and as `files.read_text` does.
    """
    text = read_text(path, "a file of prompts, one a line", "name such a file")
    prompts = tuple(line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    if not prompts:
        raise UsageError(f"'{path}' holds no prompt; write one a line.")
    return prompts
