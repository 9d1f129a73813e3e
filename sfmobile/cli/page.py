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
    device: Annotated[str, typer.Option("--device", help="Device of the estimate.")] = "iphone-14-pro",
    budget: Annotated[float, typer.Option("--budget", min=0.001, help="Seconds a picture may take.")] = 2.0,
    precision: options.PrecisionOption = "fp16",
    draw: Annotated[bool, typer.Option("--draw/--no-draw", help="Draw the golden prompt with every bundle.")] = True,
) -> None:
    """Write one HTML file about BUNDLE: pictures beside the reference's, PSNR per component and step, time against the
    budget, bits and size of every layer, lint findings, versions and checksums. It needs no network."""
    from sfmobile.page.content import gather, work
    from sfmobile.page.page import write_page
    from sfmobile.runtime.opening import open_bundle

    with console.watching() as observer:
        opened = open_bundle(bundle, observer=observer)
        target = output if output is not None else opened.reports_dir / PAGE_FILE
        others = [open_bundle(path, observer=observer) for path in beside or []]
        observer.start("Drawing and comparing", work(opened, others))
        content = gather(
            opened,
            beside=others,
            device=device,
            budget_ms=budget * 1e3,
            precision=precision,
            run=draw,
            advance=observer.advance,
        )
    write_page(content, target)
    console.print_text(str(target))
