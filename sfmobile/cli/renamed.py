"""What all commands' options have in common: old names work for a release and say so, and numbers are finite."""

from __future__ import annotations

import math
from typing import Any

import typer
from typer.core import TyperCommand

from sfmobile.cli import console
from sfmobile.errors import UsageError

# By command: what was written, and what is written now.
RENAMED: dict[str, dict[str, str]] = {
    "export": {"--precision": "--onnx-precision"},
    "inspect": {
        "--calibrate": "--activations",
        "--calibration": "--device-factors",
        "--save-calibration": "--save-device-factors",
    },
    "search": {"--calibration-prompts": "--sensitivity-prompts"},
    "page": {"--run": "--draw", "--no-run": "--no-draw"},
    "profile-blocks": {"--batch": "--guidance-batch", "--cache": "--blocks", "--runtime": "--timer"},
    "evolve": {"--runtime": "--timer"},
}


class Command(TyperCommand):
    """A command that takes its options' old names too, and no number that isn't one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the new name in place of an old one, with a note."""
        names = RENAMED.get(self.name or "", {})
        end = args.index("--") if "--" in args else len(args)
        for index, argument in enumerate(args[:end]):
            old, equals, value = argument.partition("=")
            if old in names:
                console.note(f"note: {old} is now {names[old]}; the old name goes with the next release.")
                args[index] = f"{names[old]}{equals}{value}"
        try:
            return list(super().parse_args(ctx, args))
        except typer.BadParameter as error:
            # What reads the values puts its own name in front.
            error.message = error.message.removeprefix("Value error, ")
            raise

    def invoke(self, ctx: Any) -> Any:
        """Refuse "nan" and "inf", which Python reads as numbers: a gate of nan is passed or failed by everything."""
        for name, value in ctx.params.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(
                    f"--{name.replace('_', '-')} {value} is no number that can be used; expected a finite one."
                )
        return super().invoke(ctx)
