"""`sfmobile models`: what comes with sfmobile, and what the built-in model can draw."""

from __future__ import annotations

import textwrap

from sfmobile.cli import console, options
from sfmobile.tables import TEXT_WIDTH


def models(json_output: options.JsonOption = False) -> None:
    """Say which model comes with sfmobile, which layouts `estimate` knows by name, and what the model can draw."""
    from sfmobile.checkpoint.unwritten import LAYOUTS
    from sfmobile.models import BUILT_IN, models_folder
    from sfmobile.sampling.vocabulary import built_in_vocabulary

    known = built_in_vocabulary()
    if json_output:
        console.print_json(
            {
                "model": BUILT_IN,
                "folder": str(models_folder() / BUILT_IN),
                "things": list(known.things),
                "styles": list(known.styles),
                "colours": list(known.colours),
                "layouts": list(LAYOUTS),
            }
        )
        return
    console.print_text(f"{BUILT_IN}: the built-in model, 128x128 px, in {models_folder() / BUILT_IN}")
    console.print_text(f'  styles: {", ".join(known.styles)} ("a penguin, 3d style")')
    console.print_text(_wrapped(f"colours, of things and backgrounds: {', '.join(known.colours)}"))
    console.print_text(_wrapped(f"{len(known.things)} things: {', '.join(known.things)}"))
    console.print_text(f"Layouts that `sfmobile estimate` knows by name: {', '.join(LAYOUTS)}")


def _wrapped(text: str) -> str:
    return textwrap.fill(text, TEXT_WIDTH, initial_indent="  ", subsequent_indent="    ")
