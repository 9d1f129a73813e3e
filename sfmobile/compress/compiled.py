"""Loops compiled by numba at first use, the machine code kept in a cache that may be damaged without harm.

numba's cache lies in `__pycache__` beside the module, in `~/.cache/numba` where that can't be written, or in
`$NUMBA_CACHE_DIR`. Its files are pickles: who may write there may run code, as who may write to the module itself.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

Loop = TypeVar("Loop", bound=Callable[..., object])

# What unpickling a file that was cut or overwritten raises.
DAMAGES = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, ImportError),
    *(LookupError, MemoryError, OverflowError, AssertionError),
)


def compiled(loop: Loop) -> Loop:
    """Compile at first use, keep the machine code, release the GIL."""
    dispatcher: Any = njit(cache=True, nogil=True)(loop)
    # Not there where NUMBA_DISABLE_JIT is set. The attribute is numba's own, as of 0.61 to 0.68.
    if hasattr(dispatcher, "_cache"):
        dispatcher._cache = _MendedCache(dispatcher._cache)
    return cast(Loop, dispatcher)


class _MendedCache:
    """numba's cache of one function, emptied where it can't be read: it raises, and every later use would."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, *arguments: Any) -> Any:
        """Machine code from the cache, None where it has none."""
        try:
            return self._cache.load_overload(*arguments)
        except DAMAGES:
            self._cache.flush()
            return None

    def save_overload(self, *arguments: Any) -> None:
        """Keep machine code."""
        try:
            self._cache.save_overload(*arguments)
        except DAMAGES:
            self._cache.flush()
            self._cache.save_overload(*arguments)
