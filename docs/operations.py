"""The page of operations: which MIL operation runs on which runtime, from the tables in the code.

`python docs/operations.py` writes docs/operations.md; a test holds the page to the code. What coremltools knows is
asked of its registry, how many of its own tests pass of what `benchmarks/op_conformance.py` left.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parent
PAGE = DOCS / "operations.md"
CONFORMANCE = DOCS.parent / "benchmarks" / "results" / "op_conformance.json"
# How the opsets of coremltools' registry are called by who builds apps.
FIRST = ("iOS 13", "iOS 14", "iOS 15")
CONTROL = ("cond", "while_loop")
# No operations of a program: constants, what becomes others before a package is written, and Python's own.
LEFT_OUT = ("const", "const_symbolic", "_const_symbolic")

HEAD = """# Operations

Written by `python docs/operations.py` from the code; a test holds it to that.

Every operation of coremltools {version}'s core registry, the deployment target that brought it, and those that changed
it. *Executed*: by the `mil` runtime, in fp32 and fp16, each version with the arguments it has; *translated*: to ONNX
with static shapes; *bridged*: to Core AI. Every executed operation has tests against torch, numpy or the reference's
formulas in `tests/runtime/mil/ops/`.
"""


def opset(name: str) -> str:
    """Of an opset's name in coremltools ("iOS17")."""
    spaced = name.replace("iOS", "iOS ")
    return "iOS 15" if spaced in FIRST else spaced


def rows() -> Iterator[tuple[str, ...]]:
    """Name, first and later targets, executed, translated, bridged."""
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    from sfmobile.mlpackage.constexpr import DECODERS
    from sfmobile.runtime.coreai import bridge
    from sfmobile.runtime.coreai.registry import BRIDGES
    from sfmobile.runtime.mil.ops import OPS
    from sfmobile.runtime.onnx import translate
    from sfmobile.runtime.onnx.registry import TRANSLATORS

    assert bridge and translate  # Importing them fills their tables.
    for name, versions in sorted(SSAOpRegistry.core_ops.items()):
        if name in LEFT_OUT:
            continue
        # A version that changes nothing is the same class again.
        kinds: dict[type, str] = {}
        for version in sorted(versions, key=lambda one: one.value):
            kinds.setdefault(versions[version], opset(version.name))
        targets = list(dict.fromkeys(kinds.values()))
        stored = name in DECODERS
        executed = stored or name in OPS or name in CONTROL
        yield (
            f"`{name}`",
            targets[0],
            ", ".join(targets[1:]),
            "yes" if executed else "no",
            "yes" if stored or name in TRANSLATORS else "",
            "yes" if stored or name in BRIDGES else "",
        )


def page() -> str:
    """The whole page."""
    import coremltools

    found = list(rows())
    columns = ("operation", "since", "changed", "executed", "translated", "bridged")
    lines = [HEAD.format(version=coremltools.__version__)]
    if CONFORMANCE.is_file():
        result = json.loads(CONFORMANCE.read_text(encoding="utf-8"))
        share = 100 * result["passed"] / result["judged"]
        lines.append(
            f"Of coremltools' own operator tests, run with `mil` in Core ML's place in fp16 evaluation, {share:.1f} % "
            f"pass ({result['passed']} of {result['judged']} judged, of a sample of {result['ran']} of its "
            f"{result['collected']} tests; [how](../benchmarks/op_conformance.py), "
            "[the rest](../benchmarks/op_conformance_rest.json)).\n"
        )
    counts = [sum(row[place] == "yes" for row in found) for place in (3, 4, 5)]
    lines.append(f"{len(found)} operations: {counts[0]} executed, {counts[1]} translated, {counts[2]} bridged.\n")
    lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in found]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
