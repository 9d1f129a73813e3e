"""Options that have another name now: the old one works for a release, is not shown in the help, and says so."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from sfmobile.cli import console

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
    """A command that takes its options' old names too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the new name in place of an old one, with a note."""
        names = RENAMED.get(self.name or "", {})
        end = args.index("--") if "--" in args else len(args)
        for index, argument in enumerate(args[:end]):
            old, equals, value = argument.partition("=")
            if old in names:
                console.note(f"note: {old} is now {names[old]}; the old name goes with the next release.")
                args[index] = f"{names[old]}{equals}{value}"
        return super().parse_args(ctx, args)
