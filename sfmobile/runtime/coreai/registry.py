"""The table of the bridge: one function per MIL op that builds the same thing from Core AI's operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from coreai.authoring import Value

    from sfmobile.runtime.coreai.builder import Operands

Bridge: TypeAlias = "Callable[[Operands], Value | list[Value]]"

BRIDGES: dict[str, Bridge] = {}


def bridges(*kinds: str) -> Callable[[Bridge], Bridge]:
    """Register the decorated function for MIL ops `kinds`. It raises `ValueError` for what it can't express."""

    def register(bridge: Bridge) -> Bridge:
        BRIDGES.update(dict.fromkeys(kinds, bridge))
        return bridge

    return register
