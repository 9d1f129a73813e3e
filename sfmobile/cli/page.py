"""`sfmobile report BUNDLE`: one page that shows all there is to know of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sfmobile.cli import console, engine

PAGE_COMMAND = "page"
PAGE_FILE = "report.html"


class PageByDefault(TyperGroup):
    """A group in which whatever is no command is the bundle to make a page of."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in front where it was left out."""
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = [PAGE_COMMAND, *args]
        return list(super().parse_args(ctx, args))


def page(
    bundle: engine.BundleArgument,
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
    precision: Annotated[
        engine.PrecisionChoice, typer.Option("--precision", help="Evaluation of the pictures on the mil runtime.")
    ] = engine.PrecisionChoice.fp16,
    run: Annotated[bool, typer.Option("--run/--no-run", help="Draw the golden prompt with every bundle.")] = True,
) -> None:
    """Write one HTML file about BUNDLE: pictures beside the reference's, PSNR per component and step, time against the
    budget, bits and size of every layer, lint findings, versions and checksums. It needs no network."""
    from sfmobile.page.content import gather, work
    from sfmobile.page.page import write_page

    opened = engine.open_bundle(bundle)
    others = [engine.open_bundle(path) for path in beside or []]
    target = output if output is not None else opened.reports_dir / PAGE_FILE
    with console.progress() as bars:
        task = bars.add_task("Drawing and comparing", total=work(opened, others))
        content = gather(
            opened,
            beside=others,
            device=device,
            budget_ms=budget * 1e3,
            precision=precision.value,
            run=run,
            advance=lambda units: bars.advance(task, units),
        )
    write_page(content, target)
    console.print_text(str(target))
