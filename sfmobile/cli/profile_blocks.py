"""`sfmobile profile-blocks`: the lookup table of a layout's blocks."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfmobile.cli import console, engine
from sfmobile.cli.export import AttentionChoice, TargetChoice
from sfmobile.errors import UsageError

if TYPE_CHECKING:
    from sfmobile.inspect.lookup.block_keys import BlockOptions
    from sfmobile.inspect.lookup.table import LookupTable
    from sfmobile.inspect.lookup.timers import Timer
    from sfmobile.nets.layout import UNetLayout


class TimerChoice(str, Enum):
    """`--runtime`."""

    mil = "mil"
    coreml = "coreml"
    estimate = "estimate"


def profile_blocks(
    layouts: Annotated[
        list[str], typer.Argument(metavar="LAYOUT|CHECKPOINT...", help="Names of layouts, or checkpoint directories.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="TABLE.json", help="The table; one there is added to.")
    ],
    runtime: Annotated[
        TimerChoice, typer.Option("--runtime", help="What times the blocks: mil, coreml on a Mac, or the cost model.")
    ] = TimerChoice.mil,
    device: Annotated[
        str | None, typer.Option("--device", help="Device of --runtime estimate, e.g. iphone-14-pro.")
    ] = None,
    recorded: Annotated[
        Path | None,
        typer.Option("--recorded", metavar="FILE", help="Timings measured elsewhere, in place of a --runtime."),
    ] = None,
    latent_size: Annotated[
        str, typer.Option("--latent-size", metavar="HxW", help="Latent height and width.")
    ] = "64x64",
    batch: Annotated[int, typer.Option("--batch", min=1, max=2, help="Batch of the UNet.")] = 2,
    attention: Annotated[
        AttentionChoice, typer.Option("--attention", help="Attention form.")
    ] = AttentionChoice.split_einsum,
    bits: Annotated[int | None, typer.Option("--bits", help="Bits per weight; without it fp16.")] = None,
    target: Annotated[TargetChoice, typer.Option("--target", help="Earliest system.")] = TargetChoice.ios17,
    precision: engine.PrecisionOption = engine.PrecisionChoice.fp32,
    compute_unit: engine.UnitOption = None,
    predictions: Annotated[
        int, typer.Option("--predictions", "-n", min=1, help="Calls per block after the first.")
    ] = 10,
    whole: Annotated[
        bool, typer.Option("--whole", help="Also time the whole UNet, to compare it with the sum of its blocks.")
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", metavar="DIR", help="Where block packages are kept, by content hash."),
    ] = None,
    packages_only: Annotated[
        bool, typer.Option("--packages-only", help="Export the packages and list them in TABLE.json; time nothing.")
    ] = False,
    json_output: engine.JsonOption = False,
) -> None:
    """Export every kind, width and resolution of block of a layout on its own, and time each: a search's lookup table.

    Blocks are kept by content hash, so that another layout only adds what is new. A measured table says what measured
    it and on which machine; --runtime estimate says so. For a device, export with --packages-only, measure the
    packages there, and pass the timings with --recorded.
    """
    from sfmobile.files import cache_folder
    from sfmobile.inspect.lookup.block_packages import CACHE

    chosen = [read_layout(name) for name in layouts]
    options = block_options(latent_size, batch, attention, bits, target)
    folder = cache or cache_folder(CACHE)
    if packages_only:
        export_packages(chosen, options, folder, output)
        return
    timer = choose_timer(runtime, device, recorded, precision, compute_unit, predictions)
    table = build(chosen, options, timer, folder, output, whole)
    table.write(output)
    if json_output:
        console.print_json(table)
    else:
        print_lookup(table, chosen)


def read_layout(name: str) -> UNetLayout:
    """A layout by name, or that of a checkpoint directory."""
    from sfmobile.nets.layout import UNET_LAYOUTS

    if name in UNET_LAYOUTS:
        return UNET_LAYOUTS[name]
    if Path(name).is_dir():
        from sfmobile.checkpoint.directory import Checkpoint

        return Checkpoint.open(Path(name)).unet_layout
    raise UsageError(f"'{name}' is neither a layout ({', '.join(UNET_LAYOUTS)}) nor a checkpoint directory.")


def block_options(
    latent_size: str, batch: int, form: AttentionChoice, bits: int | None, target: TargetChoice
) -> BlockOptions:
    """Options of the blocks. Raises `UsageError` for a size that is none, or bits that can't be stored."""
    from sfmobile.compress.recipe import check_bits
    from sfmobile.inspect.lookup.block_keys import BlockOptions

    height, cross, width = latent_size.partition("x")
    if not cross or not height.isdigit() or not width.isdigit():
        raise UsageError(f"Latent size '{latent_size}' is none; expected HEIGHTxWIDTH, such as 64x64.")
    if bits is not None:
        check_bits(bits)
    return BlockOptions(
        height=int(height),
        width=int(width),
        batch=2 if batch == 2 else 1,
        attention=form.value,
        bits=bits,
        target=target.value,
    )


def choose_timer(
    runtime: TimerChoice,
    device: str | None,
    recorded: Path | None,
    precision: engine.PrecisionChoice,
    unit: engine.UnitChoice | None,
    predictions: int,
) -> Timer:
    """What times the packages, checked for options that contradict each other."""
    from sfmobile.bench.machine import describe_machine
    from sfmobile.inspect.lookup.timers import CoreMLTimer, EstimateTimer, MilTimer, RecordedTimer

    if recorded is not None:
        return RecordedTimer(recorded)
    if (device is None) is (runtime is TimerChoice.estimate):
        raise UsageError("--device belongs to --runtime estimate, and that needs one; give both or neither.")
    if unit is not None and runtime is not TimerChoice.coreml:
        raise UsageError(f"--compute-unit is for the coreml runtime, not for {runtime.value}; leave it out.")
    if runtime is TimerChoice.estimate:
        assert device is not None
        return EstimateTimer(device)
    if runtime is TimerChoice.coreml:
        return CoreMLTimer(unit.value if unit is not None else "CPU_AND_NE", predictions, describe_machine())
    return MilTimer(precision.value, predictions, describe_machine())


def build(
    layouts: list[UNetLayout], options: BlockOptions, timer: Timer, cache: Path, output: Path, whole: bool
) -> LookupTable:
    """The table, what an existing one holds kept."""
    from sfmobile.inspect.lookup.table import build_table, count_blocks, read_table

    previous = read_table(output) if output.is_file() else None
    with console.progress() as bars:
        task = bars.add_task("Timing blocks", total=count_blocks(layouts, options))

        def advance(name: str) -> None:
            bars.update(task, advance=1, description=f"Timed {name}")

        return build_table(
            layouts, options, timer, cache, previous=previous, advance=advance, producer=engine.producer(), whole=whole
        )


def export_packages(layouts: list[UNetLayout], options: BlockOptions, cache: Path, output: Path) -> None:
    """Export all packages and list them by hash."""
    import json

    from sfmobile.inspect.lookup.block_keys import layout_blocks
    from sfmobile.inspect.lookup.block_packages import block_package
    from sfmobile.inspect.lookup.table import EMPTY

    keys = [EMPTY, *dict.fromkeys(key for layout in layouts for _, key in layout_blocks(layout, options))]
    packages: dict[str, str] = {}
    with console.progress() as bars:
        task = bars.add_task("Exporting blocks", total=len(keys))
        for key in keys:
            packages[block_package(key, cache).stem] = str(key)
            bars.advance(task)
    output.write_text(
        json.dumps({"kind": "block_packages", "folder": str(cache), "packages": packages}, indent=1) + "\n"
    )
    console.note(f"Wrote {len(packages)} packages to {cache}, listed in {output}")


def print_lookup(table: LookupTable, layouts: list[UNetLayout]) -> None:
    """Blocks by time, and each layout's sum beside what was measured."""
    used: dict[str, int] = {}
    for layout in layouts:
        from sfmobile.inspect.lookup.block_keys import layout_blocks

        for _, key in layout_blocks(layout, table.options):
            used[key.sha256] = used.get(key.sha256, 0) + 1
    entries = sorted(table.entries, key=lambda entry: -entry.timing.milliseconds)
    console.print_table(
        f"Blocks, {table.label} by {table.runtime}",
        ("block", "one call", "fastest", "times used"),
        [
            (
                str(entry.key),
                console.in_milliseconds(entry.timing.milliseconds / 1e3),
                "-" if entry.timing.minimum_ms is None else console.in_milliseconds(entry.timing.minimum_ms / 1e3),
                str(used.get(entry.sha256, 0)),
            )
            for entry in entries
            if entry.sha256 in used
        ],
        caption=f"A call that computes nothing takes {table.overhead_ms:.3f} ms; it is part of every row.",
    )
    console.print_table(
        "Whole UNets",
        ("layout", "blocks", "sum of blocks", "whole", "error of the sum"),
        [
            (
                check.layout,
                str(check.blocks),
                console.in_milliseconds(check.predicted_ms / 1e3),
                "-" if check.measured_ms is None else console.in_milliseconds(check.measured_ms / 1e3),
                "-" if check.error_percent is None else f"{check.error_percent:+.1f} %",
            )
            for check in table.checks
        ],
    )
