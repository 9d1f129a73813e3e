"""Every command by its name: where it is, and what it is for in a few words.

A command is imported when it is asked for, so that `sfmobile --help` reads this file and no other.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import typer
from typer.core import TyperGroup

from sfmobile.cli.renamed import Command
from sfmobile.errors import UsageError


@dataclass(frozen=True)
class Entry:
    """A command. function: "module.function" below sfmobile.cli. brief: what the list of commands says."""

    function: str
    brief: str = ""
    hidden: bool = False


@dataclass(frozen=True)
class Group:
    """Commands under one name. group: the class of typer's group, "module.class" below sfmobile.cli, if not its own."""

    brief: str
    commands: dict[str, Entry] = field(default_factory=dict)
    group: str | None = None


COMMANDS: dict[str, Entry | Group] = {
    "estimate": Entry("estimate.estimate", "Size, memory and time on a phone, before any export."),
    "export": Entry("export.export", "A checkpoint to a bundle of Core ML packages."),
    "verify": Entry("verify.verify", "Is what ships equal to what was trained? Exit code for CI."),
    "generate": Entry("generate.generate", "Pictures from text, or from a picture, with a bundle."),
    "bench": Entry("bench.bench", "Latency and memory on this machine."),
    "inspect": Entry("inspect.inspect", "What the Neural Engine will not like, sizes, time."),
    "page": Entry("page.page", "One HTML file with all there is to know of a bundle."),
    "compare": Entry("compare.compare", "What changed between two reports."),
    "run": Entry("run.run", "Run any Core ML model once on this machine."),
    "models": Entry("models.models", "What comes along, and what the built-in model can draw."),
    "evaluate": Entry("evaluate.evaluate", "How good a checkpoint's pictures are."),
    "compress": Group(
        "Bits layer by layer: search a recipe, store a bundle by one.",
        {"search": Entry("compress.search"), "apply": Entry("compress.apply")},
    ),
    "profile-blocks": Entry("profile_blocks.profile_blocks", "Time a network's blocks one by one."),
    "train": Group(
        "Teach a checkpoint your own pictures (lora); the stages that made the built-in one.",
        {
            "lora": Entry("train_lora.lora"),
            "data": Entry("train_data.data"),
            "stage": Entry("train_stages.stage"),
            "all": Entry("train_stages.all_stages"),
            "assemble": Entry("train_stages.assemble"),
            "plot": Entry("train_stages.plot"),
            "evolve": Entry("train_evolve.evolve"),
            "evaluate": Entry("evaluate.evaluate_run"),
            "dual-encoder": Entry("evaluate.dual_encoder"),
        },
    ),
    "report": Group(
        "What was measured elsewhere: `report import` reads what the iOS harness measured on an iPhone.",
        # `report BUNDLE` is the old name of `page BUNDLE`.
        {"page": Entry("page.page", hidden=True), "import": Entry("report.import_report")},
        group="page.PageByDefault",
    ),
    "doctor": Entry("doctor.doctor", "What this machine can do, and what is missing."),
}


class Commands(TyperGroup):
    """All commands. Its help is plain text: drawing it with rich takes longer than everything else."""

    def __init__(self, **settings: Any) -> None:
        """As typer makes a group."""
        super().__init__(**settings)
        self.commands = _OnDemand()

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of the table."""
        return list(COMMANDS)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Without arguments the help, on stderr and with a usage error's code."""
        if not args:
            sys.stderr.write(f"{ctx.get_help()}\n")
            ctx.exit(UsageError.exit_code)
        return list(super().parse_args(ctx, args))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """As click writes it."""
        super(TyperGroup, self).format_help(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """From the table, without a command imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.brief) for name, entry in COMMANDS.items()])


class _OnDemand(MutableMapping[str, Any]):
    """Commands by name, each built when it is first asked for."""

    def __init__(self) -> None:
        self._built: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            self._built[name] = _build(name, COMMANDS[name])
        return self._built[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._built[name] = command

    def __delitem__(self, name: str) -> None:
        del self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


def _build(name: str, entry: Entry | Group) -> Any:
    """The command, or the group of them."""
    if isinstance(entry, Entry):
        alone = typer.Typer(add_completion=False)
        alone.command(name, cls=Command)(_named(entry.function))
        return typer.main.get_command(alone)
    group = TyperGroup if entry.group is None else _named(entry.group)
    together = typer.Typer(name=name, cls=group, no_args_is_help=True, add_completion=False, help=entry.brief)
    together.callback()(lambda: None)
    for each, one in entry.commands.items():
        together.command(each, cls=Command, hidden=one.hidden)(_named(one.function))
    return typer.main.get_command(together)


def _named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(f"sfmobile.cli.{module}"), name)
