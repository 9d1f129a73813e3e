"""Which operations an input left at rest: a proof says nothing of what they read.

An operation whose result is one value everywhere (all zero behind a dead activation, say) passes on nothing of its
operands: another operand, or another weight, could give the same. What it reads isn't reached.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sfmobile.runtime.mil.evaluate import OpResult


@dataclass
class Reach:
    """Sees every result of a run operation by operation, and keeps what never varied.

    operations: how many were seen.
    """

    operations: int = 0
    _resting: dict[int, str] = field(default_factory=dict)
    _seen: set[int] = field(default_factory=set)

    def see(self, result: OpResult) -> None:
        """Take one result; of an operation with several, one that varies is enough."""
        first = result.position not in self._seen
        self._seen.add(result.position)
        self.operations += first
        value = result.value
        varies = value.size < 2 or bool((value != value.reshape(-1)[0]).any())
        if varies:
            self._resting.pop(result.position, None)
        elif first:
            self._resting[result.position] = f"{result.kind} '{result.operation}'"

    def unreached(self) -> list[str]:
        """The operations that never varied, in running order."""
        return list(self._resting.values())
