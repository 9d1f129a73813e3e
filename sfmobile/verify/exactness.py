"""Is it the network it claims to be? The packages in fp32, against our networks with the very weights they store.

No loss stands between the two, so the gate is the same whatever the bits, and high: what is left is the order in which
float32 sums run, and constants that the program holds in float16 (an epsilon, a scale).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sfmobile.verify.recording import Call
from sfmobile.verify.signal import agreement

if TYPE_CHECKING:
    from sfmobile.bench.report import Agreement
    from sfmobile.bundle.manifest import ComponentName
    from sfmobile.runtime.protocol import Arrays, LoadedComponent

# The built-in model and full-size Stable Diffusion 1.5 reach 104 dB and more; the smallest fault worth the name, a bias
# times 1.1 in one layer of many, costs them more than the difference.
EXACT_GATE_DB = 95.0


@dataclass(frozen=True)
class ExactCall:
    """One input: the call with its reference output, and how close the package came to it."""

    call: Call
    agreement: Agreement


def compare_exact(
    name: ComponentName,
    package: LoadedComponent,
    reference: LoadedComponent,
    inputs: Sequence[tuple[str, Arrays]],
    advance: Callable[[int], None] = lambda calls: None,
) -> list[ExactCall]:
    """Feed both the labelled `inputs`; the worst of each call's outputs."""
    found: list[ExactCall] = []
    for label, arrays in inputs:
        expected = reference.predict(arrays)
        given = {key: np.asarray(value) for key, value in arrays.items()}
        outputs = package.predict(given)
        worst = min((agreement(expected[key], outputs[key]) for key in expected), key=lambda one: one.closeness)
        found.append(ExactCall(Call(name, label, given, expected), worst))
        advance(1)
    return found
