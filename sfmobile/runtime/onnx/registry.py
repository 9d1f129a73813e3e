"""The table of translations: one function per MIL op that adds the ONNX nodes for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from sfmobile.runtime.onnx.builder import Arguments, GraphBuilder

Translator: TypeAlias = "Callable[[GraphBuilder, Arguments], None]"

TRANSLATORS: dict[str, Translator] = {}


def translates(*kinds: str) -> Callable[[Translator], Translator]:
    """Register the decorated function for MIL ops `kinds`. It raises `ValueError` for what it can't express."""

    def register(translator: Translator) -> Translator:
        TRANSLATORS.update(dict.fromkeys(kinds, translator))
        return translator

    return register
