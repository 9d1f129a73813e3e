"""What the guides and the README tell people to type is what the commands take; the first guide's lines run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.cli.main import app
from tests.cli.run import run
from tests.tiny import REPOSITORY

PAGES = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *REPOSITORY.glob("docs/*.md"),
        *REPOSITORY.glob("examples/*"),
        *REPOSITORY.glob("*/README.md"),
    ]
)
# Lines that a page begins with this aren't run: they need what the reader has.
NOT_RUN = "# not run here"


def lines(path: Path) -> list[str]:
    """Every line that begins with `sfmobile`, in blocks of shell, indented or of a workflow; "\\" joins lines."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)) if path.suffix == ".md" else text
    indented = re.findall(r"^    (sfmobile .*)$", text, re.MULTILINE) if path.suffix == ".md" else []
    found = re.findall(r"^(?:\s*- run: )?(sfmobile .*)$", blocks, re.MULTILINE)
    return [line for line in (*found, *indented) if "…" not in line]


def parsed(words: list[str]) -> Any:
    """The command and its parameters. Raises click's errors for an unknown command, option or value."""
    group: Any = typer.main.get_command(app)
    command = group.commands[words[1]]
    rest = words[2:]
    if hasattr(command, "commands") and rest and rest[0] in command.commands:
        command, rest = command.commands[rest[0]], rest[1:]
    return command.make_context(words[1], rest).params


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_every_line_of_shell_is_what_the_command_takes(path: Path) -> None:
    for line in lines(path):
        words = shlex.split(line, comments=True)
        assert words[1:], line
        try:
            parsed([word.replace("|", "").replace("[", "") for word in words])
        except Exception as error:
            raise AssertionError(f"{path.name}: {line}: {error}") from error


def test_the_first_guide_runs_as_it_stands(tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch, capsys) -> None:
    # A tiny model in place of the built-in one: the commands are the same.
    models = tmp_path / "models"
    models.mkdir()
    (models / "glyph").symlink_to(tiny_checkpoint.root)
    (models / "recipes").symlink_to(REPOSITORY / "models" / "recipes")
    monkeypatch.setenv("SFMOBILE_MODELS", str(models))
    monkeypatch.chdir(tmp_path)
    text = (REPOSITORY / "docs" / "start.md").read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if not block.startswith(NOT_RUN)]
    assert blocks
    for line in "".join(blocks).splitlines():
        words = shlex.split(line, comments=True)
        outcome = run(capsys, *words[1:])
        # Random weights of a network with a few channels lose more at 6 bits than the gate allows; nothing else fails.
        assert outcome.code == 0 or (words[1] == "verify" and outcome.code == 1 and "under its gate" in outcome.err), (
            f"{line}\n{outcome.err}"
        )


def links(path: Path) -> list[str]:
    """Relative links of a page, without their fragments."""
    found = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    return [link.split("#")[0] for link in found if not re.match(r"[a-z]+:|#", link)]


@pytest.mark.parametrize("path", [page for page in PAGES if page.suffix == ".md"], ids=lambda path: path.name)
def test_no_link_leads_nowhere(path: Path) -> None:
    missing = [link for link in links(path) if link and not (path.parent / link).exists()]
    assert not missing


def test_swift_of_the_guide_is_the_example_that_is_type_checked() -> None:
    guide, harness = (REPOSITORY / name for name in ("docs/app.md", "ios_harness/README.md"))
    (here,), (there,) = (
        re.findall(r"```swift\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL) for page in (guide, harness)
    )
    assert here == there
