"""The page of a bundle as a call: gathered, drawn, and shown by a notebook or saved."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sfmobile.observer import Observer
from sfmobile.page.content import gather, work
from sfmobile.page.rendering import render, write_page
from sfmobile.runtime.opening import open_bundle

if TYPE_CHECKING:
    from sfmobile.bundle.directory import Bundle
    from sfmobile.runtime.choices import Precision

# Pixels of the frame in which a notebook shows a page.
FRAME_HEIGHT = 640


@dataclass(frozen=True)
class HtmlPage:
    """One self-contained HTML file."""

    text: str

    def save(self, path: Path | str) -> None:
        """Write it whole or not at all, making its folder if need be. Raises as `files.atomic_write` does."""
        write_page(self.text, Path(path))

    def _repr_html_(self) -> str:
        """What a notebook shows: the page in a frame of its own, where its styles touch nothing else."""
        return (
            f'<iframe srcdoc="{html.escape(self.text)}" width="100%" height="{FRAME_HEIGHT}" '
            'style="border: 1px solid #8888"></iframe>'
        )


def page(
    bundle: Bundle | Path | str,
    *,
    beside: Sequence[Bundle | Path | str] = (),
    prompt: Sequence[str] = (),
    device: str = "iphone-14-pro",
    budget: float = 2.0,
    precision: Precision = "fp16",
    draw: bool = True,
    observer: Observer | None = None,
) -> HtmlPage:
    """All there is to know of a bundle as one HTML file: verdict, memory, time, pictures, agreement, weights, lint.

    beside: bundles of the same checkpoint to draw with too. prompt: drawn with every bundle; the built-in model has
    some of its own without any. device: of the estimate; budget: seconds that a picture may take. precision: of the mil
    runtime, which draws. draw: whether anything is drawn at all.

    Raises `UsageError` for an unknown device and for a bundle beside that is of another checkpoint, `BundleError` for
    one that isn't whole.
    """
    told = observer or Observer()
    opened = open_bundle(bundle, observer=told)
    others = [open_bundle(one, observer=told) for one in beside]
    prompts = tuple(prompt) or None
    told.start("Drawing and comparing", work(opened, others, prompts) if draw else None)
    content = gather(
        opened,
        beside=others,
        device=device,
        budget_ms=budget * 1e3,
        precision=precision,
        run=draw,
        prompts=prompts,
        advance=told.advance,
    )
    return HtmlPage(render(content))
