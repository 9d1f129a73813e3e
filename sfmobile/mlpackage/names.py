"""Names of constants in exported programs: which one holds which weight.

A constant is named by its weight's state-dict key with underscores ("down_blocks.0.conv1.weight" is
"down_blocks_0_conv1_weight"). What is made of it keeps that name and adds to it: "..._palettized" once compressed,
"..._to_fp16" where coremltools cast it.
"""

from __future__ import annotations

import re
from collections.abc import Container

WEIGHT = "weight"
PALETTIZED = "_palettized"


def constant_name(key: str) -> str:
    """Name of the constant that holds the weight `key`: with letters, digits and underscores, no digit first."""
    name = re.sub(r"\W", "_", key)
    return f"_{name}" if name[:1].isdigit() else name


def layer_constant(layer: str) -> str:
    """Name of the constant that holds the weight of `layer`, a module's path."""
    return constant_name(f"{layer}.{WEIGHT}")


def palettized_name(constant: str) -> str:
    """Name of the lookup that takes the place of a constant once it is palettized."""
    return f"{constant}{PALETTIZED}"


def origin(name: str, known: Container[str]) -> str | None:
    """The longest of the `known` names that `name` is, or begins with at an underscore."""
    stem = name
    while stem and stem not in known:
        stem = stem.rpartition("_")[0]
    return stem or None
