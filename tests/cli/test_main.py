from __future__ import annotations

import errno
import os
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Annotated

import pytest
import typer
import typer.rich_utils

import sfmobile
from sfmobile.cli import main as entry
from sfmobile.cli.commands import COMMANDS as TABLE
from sfmobile.cli.main import BUG, explain, take_debug
from sfmobile.errors import ArtifactError, GateError, UnavailableError, UsageError
from tests.cli.run import run

COMMANDS = tuple(TABLE)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch):
    """An app whose only command raises what the test puts in."""
    raised: list[BaseException] = []
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def command(words: Annotated[list[str] | None, typer.Argument()] = None, debug: bool = False) -> None:
        raise raised[0]

    monkeypatch.setattr(entry, "app", app)
    return raised


def test_help_names_every_command_and_the_exit_codes(capsys) -> None:
    outcome = run(capsys, "--help")
    assert outcome.code == 0 and outcome.err == ""
    assert all(f"\n  {command} " in outcome.out for command in COMMANDS)
    assert "1 a gate failed" in outcome.out


def test_help_is_quick() -> None:
    def seconds() -> float:
        script = "import time; from sfmobile.cli.main import main; main(['--help'])"
        start = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        return end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime

    assert min(seconds() for _ in range(3)) < 0.3


def test_without_a_command_the_help_is_a_mistake(capsys) -> None:
    outcome = run(capsys)
    assert outcome.code == 2 and outcome.out == "" and "Usage: sfmobile" in outcome.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_of_its_own(command: str, capsys) -> None:
    outcome = run(capsys, command, "--help")
    assert outcome.code == 0 and f"sfmobile {command}" in outcome.out


def test_version_is_the_packages(capsys) -> None:
    assert run(capsys, "--version").out == f"sfmobile {sfmobile.__version__}\n"


@pytest.mark.parametrize("arguments", [["paint"], ["doctor", "--fast"], ["compare"], ["generate", "--steps", "many"]])
def test_mistakes_on_the_command_line_exit_with_2_and_say_so_on_stderr(arguments: list[str], capsys) -> None:
    outcome = run(capsys, *arguments)
    assert outcome.code == 2 and outcome.out == "" and "Usage: sfmobile" in outcome.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GateError("UNet: 12.0 dB is under the gate of 35.0 dB."), 1),
        (UsageError("Steps must be at least 1, found 0."), 2),
        (UnavailableError("Core ML needs macOS."), 3),
        (ArtifactError("'x' is truncated."), 4),
    ],
)
def test_a_failure_is_one_sentence_on_stderr_and_its_exit_code(error: Exception, code: int, failing, capsys) -> None:
    failing.append(error)
    outcome = run(capsys)
    assert outcome.code == code and outcome.out == ""
    assert outcome.err == f"error: {error}\n"


def test_a_long_sentence_stays_on_one_line_and_keeps_its_brackets(failing, capsys) -> None:
    failing.append(ArtifactError("'[bold]/x[/bold]' " + "is very wrong, " * 40 + "export it again."))
    assert run(capsys).sentence == str(failing[0])


def test_debug_adds_the_traceback_wherever_it_stands(failing, capsys) -> None:
    failing.append(ArtifactError("'x' is truncated."))
    outcome = run(capsys, "--debug")
    assert "Traceback" in outcome.err and "'x' is truncated." in outcome.sentence
    assert take_debug(["export", "a", "--debug"]) == (["export", "a"], True)
    assert take_debug(["generate", "b", "--", "--debug"]) == (["generate", "b", "--", "--debug"], False)


def test_a_mistake_of_ours_shows_no_traceback_unasked_and_has_a_code_of_its_own(failing, capsys) -> None:
    failing.append(KeyError("surprise"))
    outcome = run(capsys)
    assert outcome.code == BUG and "Traceback" not in outcome.err and "KeyError" in outcome.sentence


def test_a_full_disk_and_a_forbidden_file_are_the_environments_fault() -> None:
    full, code = explain(OSError(errno.ENOSPC, "No space left on device", "/out/UNet.mlpackage"))
    assert code == 3 and full.startswith("No space left while writing '/out/UNet.mlpackage'")
    forbidden, code = explain(PermissionError(errno.EACCES, "Permission denied", "/out"))
    assert code == 3 and forbidden == "Can't use '/out': Permission denied."


def test_ctrl_c_exits_with_130_and_no_traceback(failing, capsys) -> None:
    failing.append(KeyboardInterrupt())
    outcome = run(capsys)
    assert outcome.code == 130 and "Traceback" not in outcome.err


@pytest.mark.parametrize(("command", "kept"), [("export", "goes on with the others"), ("verify", "Nothing was")])
def test_ctrl_c_says_what_is_kept(command: str, kept: str, failing, capsys) -> None:
    failing.append(KeyboardInterrupt())
    assert kept in run(capsys, "--debug", command).err


def test_ctrl_c_in_a_real_process() -> None:
    script = (
        "import os, signal, time, typer\n"
        "from sfmobile.cli import main as entry\n"
        "entry.app = typer.Typer()\n"
        "@entry.app.command()\n"
        "def command():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(30)\n"
        "entry.main([])\n"
    )
    signal_free = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, **signal_free)
    assert done.returncode == 130 and "Traceback" not in done.stderr


def test_it_runs_as_a_module_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sfmobile", "--version"], capture_output=True, text=True, env=os.environ, check=True
    )
    assert done.stdout.startswith("sfmobile ")


def _shell(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """What a shell makes of a command in which `$S` is sfmobile."""
    run_it = f"{shlex.quote(sys.executable)} -m sfmobile"
    return subprocess.run(
        ["bash", "-c", command.replace("$S", run_it)],
        capture_output=True,
        check=False,
        env={**os.environ, **environment},
        timeout=120,
    )


def test_a_closed_stdout_is_one_sentence() -> None:
    done = _shell("$S --version >&-")
    assert done.returncode == 3 and done.stderr.startswith(b"error: Standard output is closed; direct it to /dev/null")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("words", ["--help", "models", "models --json", "export --help"])
def test_a_reader_that_has_read_enough_is_no_error(words: str) -> None:
    # The reader is gone before the first line is written.
    done = _shell(f"(sleep 0.2; $S {words}; echo $? >&2) | true")
    assert done.stderr == b"141\n"


def test_names_that_are_not_utf8_and_streams_that_are_ascii_are_written_as_escapes(capsys) -> None:
    done = _shell("$S verify $'/nowhere/\\xff\u00e9'", PYTHONIOENCODING="ascii")
    assert done.returncode == 4
    assert done.stderr.startswith(b"error: '/nowhere/\\udcff\\xe9' is not a bundle")


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "b", "--gate", "nan"),
        ("verify", "b", "--picture-gate", "-inf"),
        ("generate", "b", "a", "--guidance", "nan"),
        ("bench", "b", "--guidance", "inf"),
        ("compare", "a", "b", "--threshold-db", "inf"),
        ("compress", "search", "b", "-o", "r", "--signal", "nan"),
        ("inspect", "b", "--budget", "inf"),
        ("page", "b", "--budget", "inf"),
    ],
)
def test_what_is_no_number_is_refused_by_every_option_that_takes_one(arguments: tuple[str, ...], capsys) -> None:
    outcome = run(capsys, *arguments)
    assert outcome.code == 2
    assert f"{arguments[-2]} {arguments[-1]} is no number that can be used" in outcome.sentence


def commands(group: typer.core.TyperGroup, *path: str) -> Iterator[tuple[tuple[str, ...], typer.core.TyperCommand]]:
    """Every command below `group`, hidden ones too, with the words that call it."""
    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            yield from commands(command, *path, name)
        elif isinstance(command, typer.core.TyperCommand):
            yield (*path, name), command


def test_every_options_help_is_shown_as_it_is_written(capsys, monkeypatch) -> None:
    # Wide, so that nothing is wrapped; "[...]" is markup to the library that prints, and would vanish.
    monkeypatch.setattr(typer.rich_utils, "MAX_WIDTH", 400)
    root = typer.main.get_command(entry.app)
    assert isinstance(root, typer.core.TyperGroup)
    seen = 0
    for words, command in commands(root):
        shown = run(capsys, *words, "--help").out
        for parameter in command.params:
            text = getattr(parameter, "help", None)
            if text and not getattr(parameter, "hidden", False):
                assert text in shown, f"{' '.join(words)} {parameter.name}"
                seen += 1
    assert seen > 150
