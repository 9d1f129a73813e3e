"""What times blocks, as names: a runtime of this machine, or the cost model of a device. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal

TimerKind = Literal["mil", "coreml", "estimate"]
