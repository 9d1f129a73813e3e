"""The site's page of reference, every command and everything that `import sfmobile` offers, made from the code.

`mkdocs.yml` names this file as a hook, so that the page is made whenever the site is built; run alone, it prints it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import typer

import sfmobile
from sfmobile.cli.commands import COMMANDS
from sfmobile.cli.main import app

PAGE = "reference.md"


def on_files(files: Any, config: Any) -> Any:
    """mkdocs' hook: the page among the others."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, PAGE, content=text()))
    return files


def text() -> str:
    """The page."""
    root: Any = typer.main.get_command(app)
    lines = [
        "# Reference",
        "",
        "*Made from the code.*",
        "",
        "## Commands",
        "",
    ]
    for name in COMMANDS:
        lines += command(f"sfmobile {name}", root.commands[name])
    lines += ["## Python", "", "Behind `import sfmobile`; nothing is imported before it is used.", ""]
    for name in sfmobile.__all__:
        if name != "errors":
            lines += offered(name)
    return "\n".join(lines).rstrip() + "\n"


def command(words: str, found: Any) -> Iterator[str]:
    """The heading, the help and the options of a command, or of all in a group."""
    if hasattr(found, "commands"):
        for name, inner in found.commands.items():
            if not inner.hidden:
                yield from command(f"{words} {name}", inner)
        return
    shown = [one for one in found.params if not getattr(one, "hidden", False) and one.name != "help"]
    arguments = [one for one in shown if one.param_type_name == "argument"]
    options = [one for one in shown if one.param_type_name == "option"]
    usage = " ".join([words, *(one.metavar or one.name.upper() for one in arguments)])
    yield from (f"### `{usage}`", "", cleaned(found.help), "")
    for one in arguments:
        yield f"- `{one.metavar or one.name.upper()}`: {cleaned(one.help)}"
    for one in options:
        names = ", ".join((*one.opts, *one.secondary_opts))
        value = one.metavar or ""
        default = (
            one.default if isinstance(one.default, (int, float, str)) and not isinstance(one.default, bool) else None
        )
        shown_default = f" Default: {default}." if default not in (None, "") else ""
        yield f"- `{f'{names} {value}'.strip()}`: {cleaned(one.help)}{shown_default}"
    yield ""


def offered(name: str) -> Iterator[str]:
    """The signature and the documentation of a function or class."""
    value = getattr(sfmobile, name)
    value = inspect.unwrap(value) if not inspect.isclass(value) else value
    signature = re.sub(r"(?<=[\[ ,(|])[a-z_]+(?:\.[a-z_]+)+\.(?=[A-Z])", "", str(inspect.signature(value)))
    yield from (f"### `sfmobile.{name}`", "", "```python", f"{name}{signature}", "```", "")
    yield from (inspect.getdoc(value) or "", "")
    if inspect.isclass(value):
        for method, inner in inspect.getmembers(value, callable):
            if not method.startswith("_") and inner.__doc__:
                yield f"- `{method}`: {cleaned(inner.__doc__)}"
        yield ""


def cleaned(help_text: str | None) -> str:
    """Help on one line."""
    return " ".join((help_text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    print(text(), end="")
