"""Rooms that are doors too: a package that can be called as the function of its name that `sfmobile` offers.

`sfmobile.verify` is both the package that holds `sfmobile.verify.divergence` and what a notebook calls. Importing
anything in the package binds the package to that name, so the package itself has to be what is called. A module may be
given a class of its own for such things (Python's data model, "Customizing module attribute access"), and stays a
module in every other way: `import sfmobile.verify.divergence as d`, dotted names in a monkeypatch, reloading.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


class Room(ModuleType):
    """A package of `sfmobile` that is called as the front door's function of that name, which is imported then."""

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The function; `inspect.signature` and notebooks follow it."""
        function: Callable[..., Any] = getattr(importlib.import_module(_front_door().OFFERED[_own(self)]), _own(self))
        return function

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        """The function's documentation."""
        return self.__wrapped__.__doc__

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the function."""
        return self.__wrapped__(*arguments, **options)

    # `help` prints a module's functions, so that the function is one of them: `from sfmobile.verify import verify`.
    def __getattr__(self, name: str) -> Any:
        if name == _own(self):
            return self.__wrapped__
        if name == "__all__":
            return [_own(self)]
        raise AttributeError(f"module '{self.__name__}' has no attribute '{name}'")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), _own(self)})

    def __reduce__(self) -> tuple[Callable[[str], ModuleType], tuple[str]]:
        # A function can be pickled; this stands for one.
        return importlib.import_module, (self.__name__,)


def open_door(package: str) -> None:
    """Make a package callable; it says so in its `__init__`, with its own `__name__`."""
    sys.modules[package].__class__ = Room


def _own(room: ModuleType) -> str:
    return room.__name__.rpartition(".")[2]


def _front_door() -> Any:
    return sys.modules["sfmobile"]
