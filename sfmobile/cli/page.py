"""`sfmobile page BUNDLE`: one page that shows all there is to know of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sfmobile.cli import console, options

PAGE_COMMAND = "page"
PAGE_FILE = "report.html"


class PageByDefault(TyperGroup):
    """`sfmobile report`: whatever is no command of it is a bundle to make a page of, as it was called before."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in front where it was left out."""
        if args and args[0] not in (*self.commands, "-h", "--help"):
            console.note("note: `report BUNDLE` is now `page BUNDLE`; the old name goes with the next release.")
            args = [PAGE_COMMAND, *args]
        return list(super().parse_args(ctx, args))


def page(
    bundle: options.BundleArgument,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE.html", help="The page; without it reports/report.html of BUNDLE."),
    ] = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option(
            "--beside", metavar="BUNDLE", help="Also draw with this bundle of the same checkpoint; may be repeated."
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt",
            help="Also draw this; may be repeated. The built-in model draws some of its own without it.",
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="Device of the estimate.")] = "iphone-14-pro",
    budget: Annotated[float, typer.Option("--budget", min=0.001, help="Seconds a picture may take.")] = 2.0,
    precision: options.PrecisionOption = "fp16",
    draw: Annotated[bool, typer.Option("--draw/--no-draw", help="Draw the golden prompt with every bundle.")] = True,
) -> None:
    """Write one HTML file about BUNDLE: pictures beside the reference's, PSNR per component and step, time against the
    budget, bits and size of every layer, lint findings, versions and checksums. It needs no network."""
    import sfmobile
    from sfmobile.bundle.directory import reports_folder
    from sfmobile.files import require_writable

    target = output if output is not None else reports_folder(bundle) / PAGE_FILE
    if output is not None or bundle.is_dir():
        require_writable(target)
    with console.watching() as observer:
        made = sfmobile.page(
            bundle,
            beside=beside or (),
            prompt=prompt or (),
            device=device,
            budget=budget,
            precision=precision,
            draw=draw,
            observer=observer,
        )
    made.save(target)
    console.print_text(str(target))
