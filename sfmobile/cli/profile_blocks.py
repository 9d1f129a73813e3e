"""`sfmobile profile-blocks`: the lookup table of a layout's blocks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sfmobile.bundle.choices import AttentionForm, Target
from sfmobile.cli import console, options
from sfmobile.errors import UsageError
from sfmobile.inspect.lookup.choices import TimerKind
from sfmobile.tables import Table, in_milliseconds

if TYPE_CHECKING:
    from sfmobile.inspect.lookup.block_keys import BlockOptions
    from sfmobile.inspect.lookup.table import LookupTable
    from sfmobile.inspect.lookup.timers import Timer
    from sfmobile.nets.layout import UNetLayout

# Before a layout's name, where a directory has the same one.
LAYOUT_PREFIX = "layout:"


def profile_blocks(
    layouts: Annotated[
        list[str], typer.Argument(metavar="LAYOUT|CHECKPOINT...", help="Names of layouts, or checkpoint directories.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="TABLE.json", help="The table; one there is added to.")
    ],
    timer: Annotated[
        TimerKind, typer.Option("--timer", help="What times the blocks: mil, coreml on a Mac, or the cost model.")
    ] = "mil",
    device: Annotated[
        str | None, typer.Option("--device", help="Device of --timer estimate, e.g. iphone-14-pro.")
    ] = None,
    recorded: Annotated[
        Path | None,
        typer.Option("--recorded", metavar="FILE", help="Timings measured elsewhere, in place of a --timer."),
    ] = None,
    latent_size: Annotated[
        str, typer.Option("--latent-size", metavar="HxW", help="Latent height and width.")
    ] = "64x64",
    guidance_batch: Annotated[int, typer.Option("--guidance-batch", metavar="2|1", help="Batch of the UNet.")] = 2,
    attention: Annotated[AttentionForm, typer.Option("--attention", help="Attention form.")] = "split-einsum",
    bits: Annotated[int | None, typer.Option("--bits", help="Bits per weight; without it fp16.")] = None,
    target: Annotated[Target, typer.Option("--target", help="Earliest system.")] = "ios17",
    precision: options.PrecisionOption = "fp32",
    compute_unit: options.UnitOption = None,
    predictions: Annotated[
        int, typer.Option("--predictions", "-n", min=1, help="Calls per block after the first.")
    ] = 10,
    whole: Annotated[
        bool, typer.Option("--whole", help="Also time the whole UNet, to compare it with the sum of its blocks.")
    ] = False,
    blocks: Annotated[
        Path | None,
        typer.Option("--blocks", metavar="DIR", help="Where block packages are kept, by content hash."),
    ] = None,
    packages_only: Annotated[
        bool, typer.Option("--packages-only", help="Export the packages and list them in TABLE.json; time nothing.")
    ] = False,
    json_output: options.JsonOption = False,
) -> None:
    """Export every kind, width and resolution of block of a layout on its own, and time each: a search's lookup table.

    Blocks are kept by content hash, so that another layout only adds what is new. A measured table says what measured
    it and on which machine; --timer estimate says so. For a device, export with --packages-only, measure the
    packages there, and pass the timings with --recorded.
    """
    from sfmobile.files import cache_folder, require_writable
    from sfmobile.inspect.lookup.block_packages import CACHE
    from sfmobile.inspect.lookup.timers import choose_timer

    require_writable(output)
    chosen = [read_layout(name) for name in layouts]
    wanted = block_options(latent_size, options.parse_batch(guidance_batch), attention, bits, target)
    folder = blocks or cache_folder(CACHE)
    if packages_only:
        export_packages(chosen, wanted, folder, output)
        return
    timing = choose_timer(timer, device, recorded, precision, compute_unit, predictions)
    table = build(chosen, wanted, timing, folder, output, whole)
    table.write(output)
    if json_output:
        console.print_json(table)
    else:
        console.print_parts(*lookup_tables(table, chosen))


def read_layout(name: str) -> UNetLayout:
    """A layout by name, or that of a checkpoint directory; `layout:NAME` is never a directory.

    Raises `UsageError` for a name that is neither, and for one that could be both.
    """
    from sfmobile.nets.layout import UNET_LAYOUTS

    wanted = name.removeprefix(LAYOUT_PREFIX)
    known = wanted in UNET_LAYOUTS
    if wanted == name and Path(name).is_dir():
        if known:
            raise UsageError(
                f"'{name}' is a layout and a directory here; write {LAYOUT_PREFIX}{name} for the layout, or "
                f".{os.sep}{name} for the checkpoint in the directory."
            )
        from sfmobile.checkpoint.directory import Checkpoint

        return Checkpoint.open(Path(name)).unet_layout
    if known:
        return UNET_LAYOUTS[wanted]
    raise UsageError(f"'{name}' is neither a layout ({', '.join(UNET_LAYOUTS)}) nor a checkpoint directory.")


def block_options(
    latent_size: str, batch: Literal[1, 2], attention: AttentionForm, bits: int | None, target: Target
) -> BlockOptions:
    """Options of the blocks. Raises `UsageError` for a size that is none, or bits that can't be stored."""
    from sfmobile.compress.recipe import check_bits
    from sfmobile.inspect.lookup.block_keys import BlockOptions

    height, width = options.parse_size(latent_size)
    if bits is not None:
        check_bits(bits)
    return BlockOptions(
        height=height,
        width=width,
        batch=batch,
        attention=attention,
        bits=bits,
        target=target,
    )


def build(
    layouts: list[UNetLayout], wanted: BlockOptions, timer: Timer, cache: Path, output: Path, whole: bool
) -> LookupTable:
    """The table, what an existing one holds kept."""
    from sfmobile.bench.header import producer
    from sfmobile.inspect.lookup.table import build_table, count_blocks, read_table

    previous = read_table(output) if output.is_file() else None
    with console.watching() as observer:
        observer.start("Timing blocks", count_blocks(layouts, wanted))
        return build_table(
            layouts,
            wanted,
            timer,
            cache,
            previous=previous,
            advance=lambda _: observer.advance(),
            producer=producer(),
            whole=whole,
        )


def export_packages(layouts: list[UNetLayout], wanted: BlockOptions, cache: Path, output: Path) -> None:
    """Export all packages and list them by hash."""
    from sfmobile.files import write_json
    from sfmobile.inspect.lookup.block_keys import layout_blocks
    from sfmobile.inspect.lookup.block_packages import block_package
    from sfmobile.inspect.lookup.table import EMPTY

    keys = [EMPTY, *dict.fromkeys(key for layout in layouts for _, key in layout_blocks(layout, wanted))]
    packages: dict[str, str] = {}
    with console.watching() as observer:
        observer.start("Exporting blocks", len(keys))
        for key in keys:
            packages[block_package(key, cache).stem] = str(key)
            observer.advance()
    write_json(output, {"kind": "block_packages", "folder": str(cache), "packages": packages}, indent=1)
    console.note(f"Wrote {len(packages)} packages to {cache}, listed in {output}")


def lookup_tables(table: LookupTable, layouts: list[UNetLayout]) -> list[Table]:
    """Blocks by time, and each layout's sum beside what was measured."""
    from collections import Counter

    from sfmobile.inspect.lookup.block_keys import layout_blocks

    used = Counter(key.sha256 for layout in layouts for _, key in layout_blocks(layout, table.options))
    entries = sorted(table.entries, key=lambda entry: -entry.timing.milliseconds)
    blocks = Table(
        f"Blocks, {table.label} by {table.runtime}",
        ("block", "one call", "fastest", "times used"),
        tuple(
            (
                str(entry.key),
                in_milliseconds(entry.timing.milliseconds),
                in_milliseconds(entry.timing.minimum_ms),
                str(used[entry.sha256]),
            )
            for entry in entries
            if entry.sha256 in used
        ),
        caption=f"A call that computes nothing takes {table.overhead_ms:.3f} ms; it is part of every row.",
    )
    whole = Table(
        "Whole UNets",
        ("layout", "blocks", "sum of blocks", "whole", "error of the sum"),
        tuple(
            (
                check.layout,
                str(check.blocks),
                in_milliseconds(check.predicted_ms),
                in_milliseconds(check.measured_ms),
                "-" if check.error_percent is None else f"{check.error_percent:+.1f} %",
            )
            for check in table.checks
        ),
    )
    return [blocks, whole]
