"""Entry point: registers every command and turns failures into one sentence and an exit code."""

from __future__ import annotations

import errno
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from sfmobile.cli import console
from sfmobile.cli.commands import Commands
from sfmobile.cli.requirements import explain_missing
from sfmobile.errors import SfmobileError, UnavailableError
from sfmobile.version import __version__

INTERRUPTED = 130
# What Ctrl-C leaves, by command.
KEPT = {
    "export": "Components that are finished are kept: run the same command again and it goes on with the others.",
    "generate": "Pictures that are finished are kept.",
    "train": "What was saved last is kept: run the same command again and it goes on from there.",
    "profile-blocks": "Blocks that are exported are kept: run the same command again and it times them.",
}
NOTHING_KEPT = "Nothing was written; run the command again."
# As a shell shows a process that SIGPIPE ended.
UNREAD = 141
# EX_SOFTWARE of sysexits.h: a failure this program should have foreseen, so none of the documented codes.
BUG = 70

app = typer.Typer(
    name="sfmobile",
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Text-to-image on the iPhone: export to Core ML, run and verify the export on any machine, measure it.",
    epilog="Exit codes: 0 ok, 1 a gate failed, 2 usage, 3 this environment can't, 4 an artifact is missing or corrupt.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print_text(f"sfmobile {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command."""


def quiet_libraries() -> None:
    """Keep other packages' start-up chatter off the screen: on Linux coremltools reports each macOS-only
    part it can't load, and warns of every torch release newer than itself."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    for variable, value in (
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("DIFFUSERS_VERBOSITY", "error"),
        ("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
    ):
        os.environ.setdefault(variable, value)


def explain(error: Exception) -> tuple[str, int]:
    """The sentence and the exit code of a failure."""
    if isinstance(error, SfmobileError):
        return str(error), error.exit_code
    if isinstance(error, OSError):
        name = f"'{error.filename}'" if error.filename else "the output"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return (
                f"No space left while writing {name}; free some and run the command again, what is whole is kept.",
                UnavailableError.exit_code,
            )
        return f"Can't use {name}: {error.strerror or error}.", UnavailableError.exit_code
    if isinstance(error, ModuleNotFoundError) and (missing := explain_missing(error)):
        return missing, UnavailableError.exit_code
    if isinstance(error, MemoryError):
        return "Out of memory; close other programs or use a machine with more.", UnavailableError.exit_code
    return (
        f"Unexpected {type(error).__name__}: {error} (a mistake in sfmobile; --debug shows where, please report it).",
        BUG,
    )


def take_debug(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """`--debug` may stand anywhere before a `--`; typer only knows it in front of the command."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    head = [argument for argument in arguments[:cut] if argument != "--debug"]
    return [*head, *arguments[cut:]], len(head) < cut


def prepare_streams() -> None:
    """Streams that take any text: what isn't UTF-8 in a name is written as an escape, and none of them is missing.

    Raises `UnavailableError` where stdout was closed: the result would go nowhere, or into the next file opened.
    """
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        raise UnavailableError("Standard output is closed; direct it to /dev/null if the result isn't wanted.")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def kept(words: Sequence[str]) -> str:
    """What Ctrl-C says of the command that these words call."""
    return f"Interrupted. {KEPT.get(next(iter(words), ''), NOTHING_KEPT)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit the process with its code."""
    rest, debug = take_debug(list(sys.argv[1:] if arguments is None else arguments))
    quiet_libraries()
    try:
        prepare_streams()
        app(args=rest, prog_name="sfmobile")
    except KeyboardInterrupt:
        console.note(kept(rest))
        sys.exit(INTERRUPTED)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            console.note(kept(rest))
        # click ends with 1, a gate's code, where who read the result has read enough.
        if isinstance(ended.__context__, BrokenPipeError):
            sys.exit(UNREAD)
        raise
    # The one place that may catch everything: below it there is only the interpreter's traceback.
    except Exception as error:
        message, code = explain(error)
        if debug:
            traceback.print_exc()
        console.fail(message)
        sys.exit(code)


if __name__ == "__main__":
    main()
