"""What is checked, and how a check reports what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from sfmobile.inspect.lint.rule import Rule, Severity
from sfmobile.inspect.operations.blocks import assign_blocks
from sfmobile.mlpackage.graph import Graph

if TYPE_CHECKING:
    from sfmobile.mlpackage.program import Constant, Operation, Program
    from sfmobile.mlpackage.types import TensorType


@dataclass(frozen=True)
class Found:
    """A place that breaks a rule. width: last axis of the value concerned. severity: if it isn't the rule's own."""

    operation: Operation | None
    message: str
    width: int | None = None
    severity: Severity | None = None


@dataclass
class Subject:
    """A program and what is known of it beyond itself.

    palettized: the bundle says its weights are. full_width: weights that the recipe leaves at 16 bits, by name.
    magnitudes: the largest magnitude of every value in a recorded run, by name; None without one.
    """

    program: Program
    palettized: bool = False
    full_width: frozenset[str] = frozenset()
    magnitudes: Mapping[str, float] | None = None
    graph: Graph = field(init=False)
    blocks: dict[int, str] = field(init=False)

    def __post_init__(self) -> None:
        self.graph = Graph(self.program)
        self.blocks = assign_blocks(self.graph)
        self._extremes: dict[str, Extremes] = {}

    def floats(self) -> Iterator[tuple[Operation, str, TensorType]]:
        """Every float value that an operation computes."""
        for operation in self.program.operations:
            for name, type_ in operation.outputs:
                if type_.is_float:
                    yield operation, name, type_

    def extremes(self, name: str, constant: Constant) -> Extremes:
        """Range of a constant; each is read once."""
        if name not in self._extremes:
            self._extremes[name] = Extremes.of(constant.load())
        return self._extremes[name]


@dataclass(frozen=True)
class Extremes:
    """The largest finite magnitude of a constant, and how many of its values aren't finite."""

    magnitude: float
    nonfinite: int

    @classmethod
    def of(cls, value: np.ndarray | str) -> Extremes:
        """Extremes of an array of floats.

        Codes without the sign bit order as the magnitudes do, and numpy compares integers ten times as fast as half
        precision.
        """
        array = np.ascontiguousarray(value).reshape(-1)
        coding = _CODINGS.get(array.dtype)
        if coding is None:
            array, coding = array.astype(np.float32), _CODINGS[np.dtype(np.float32)]
        codes, infinity = coding
        magnitude, nonfinite = 0, 0
        for start in range(0, array.size, _CHUNK):
            part = array[start : start + _CHUNK].view(codes) & codes.type(infinity - 1 | infinity)
            finite = part[part < infinity] if int(part.max()) >= infinity else part
            nonfinite += part.size - finite.size
            magnitude = max(magnitude, int(finite.max(initial=0)))
        return cls(float(codes.type(magnitude).view(array.dtype)), nonfinite)


# Per float type: the integer type of its codes, and the code of infinity.
_CODINGS: dict[np.dtype[Any], tuple[np.dtype[Any], int]] = {
    np.dtype(np.float16): (np.dtype(np.uint16), 0x7C00),
    np.dtype(np.float32): (np.dtype(np.uint32), 0x7F800000),
}
_CHUNK = 1 << 22


Check: TypeAlias = "Callable[[Subject, Rule], Iterator[Found]]"
CHECKS: dict[str, Check] = {}


def checks(rule: str) -> Callable[[Check], Check]:
    """Register the decorated function as what looks for breaches of `rule`."""

    def register(check: Check) -> Check:
        CHECKS[rule] = check
        return check

    return register
