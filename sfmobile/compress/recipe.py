"""Recipes: how many bits each layer's weights get. JSON, reusable between checkpoints of one architecture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from sfmobile.bundle.manifest import ComponentName
from sfmobile.errors import UsageError
from sfmobile.files import StrictModel, read_model, sha256_of_value, write_json

# What constexpr_lut_to_dense stores, and 16 for weights left as they are.
BITS: tuple[int, ...] = (1, 2, 3, 4, 6, 8)
FULL_BITS = 16
# Three bits and lookup tables per group of channels exist from iOS 18 on.
IOS18_BITS = (3,)
RECIPE_VERSION: Final = 1

# Below this many weights a lookup table costs more than it saves (coremltools' own threshold).
SMALLEST_WEIGHT = 2048


class LayerRecipe(StrictModel):
    """Storage of one layer's weight: 1, 2, 3, 4, 6, 8 or 16 bits, and output channels per lookup table (None: all)."""

    bits: int
    group_size: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _storable(self) -> Self:
        if self.bits not in (*BITS, FULL_BITS):
            raise ValueError(f"{self.bits} bits can't be stored; expected one of {_bits_list()} or {FULL_BITS}")
        if self.bits == FULL_BITS and self.group_size is not None:
            raise ValueError(f"a group size means nothing at {FULL_BITS} bits")
        return self


class ComponentRecipe(StrictModel):
    """One component: its own default (else the recipe's), exceptions by layer, and the architecture it was made for.

    A layer is named by its weight's state-dict key without `.weight`. `architecture` is `architecture_digest`'s.
    """

    default: LayerRecipe | None = None
    layers: dict[str, LayerRecipe] = Field(default_factory=dict)
    architecture: str | None = None


class Recipe(StrictModel):
    """Bits and group size for every weight of a bundle."""

    kind: Literal["sfmobile-recipe"] = "sfmobile-recipe"
    version: Literal[1] = RECIPE_VERSION
    default: LayerRecipe
    components: dict[ComponentName, ComponentRecipe] = Field(default_factory=dict)
    note: str = ""

    @classmethod
    def uniform(cls, bits: int, group_size: int | None = None) -> Recipe:
        """The same bits and group size everywhere. Raises `UsageError` for bits that can't be stored."""
        check_bits(bits)
        if group_size is not None and group_size < 1:
            raise UsageError(f"A group of {group_size} channels is impossible; give 1 or more.")
        return cls(default=LayerRecipe(bits=bits, group_size=group_size))

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a recipe file. Raises `ArtifactError` saying what is wrong with it."""
        mend = "correct it, or write one with `sfmobile compress search SOURCE -o FILE`"
        return read_model(path, cls, "a recipe", mend, version=RECIPE_VERSION)

    def write(self, path: Path) -> None:
        """Write the recipe as JSON, whole or not at all. Raises as `files.atomic_write` does."""
        write_json(path, self.model_dump(mode="json", exclude_none=True))

    def for_component(self, component: ComponentName) -> dict[str, Any]:
        """What this recipe says of `component`, as a JSON value; equal values store equal weights."""
        part = self.components.get(component, ComponentRecipe())
        default = part.default or self.default
        layers = {name: layer.model_dump() for name, layer in sorted(part.layers.items()) if layer != default}
        return {"default": default.model_dump(), "layers": layers}

    def layer(self, component: ComponentName, name: str) -> LayerRecipe:
        """Storage of the layer `name` of `component`."""
        part = self.components.get(component, ComponentRecipe())
        return part.layers.get(name) or part.default or self.default

    def main_choice(self, component: ComponentName, sizes: Mapping[str, int]) -> LayerRecipe:
        """The choice that most of `component`'s weights (`sizes`: weights per layer) have."""
        totals: dict[LayerRecipe, int] = {}
        for name, size in sizes.items():
            choice = self.layer(component, name)
            totals[choice] = totals.get(choice, 0) + size
        return max(totals, key=lambda choice: totals[choice]) if totals else self.default

    def check_target(self, target: str) -> None:
        """Raise `UsageError` if the recipe needs a later system than `target` ("ios16", "ios17", "ios18")."""
        if target == "ios18":
            return
        choices = {"": self.default}
        for component, part in self.components.items():
            choices[f" (default of {component})"] = part.default or self.default
            choices.update({f" ({component} {name})": layer for name, layer in part.layers.items()})
        for place, layer in choices.items():
            if layer.bits in IOS18_BITS:
                raise UsageError(f"{layer.bits} bits need target ios18{place}, found {target}; use 2 or 4, or ios18.")
            if layer.group_size is not None:
                raise UsageError(
                    f"Lookup tables per group of channels need target ios18{place}, found {target}; leave out the "
                    "group size or export for ios18."
                )

    def check_names(self, known: Iterable[ComponentName]) -> None:
        """Raise `UsageError` for a part of a component that isn't among those `known`."""
        names = tuple(known)
        for component in self.components:
            if component not in names:
                raise UsageError(
                    f"The recipe has a part for '{component}', which this checkpoint doesn't have (it has "
                    f"{', '.join(names)}); correct its name, or search a recipe for this checkpoint."
                )

    def check_component(self, component: ComponentName, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise `UsageError` unless the recipe fits `component` with weights of `shapes` (by layer name).

        Catches a recipe of another architecture, an unknown layer, and a group size that doesn't divide its channels.
        """
        part = self.components.get(component, ComponentRecipe())
        if part.architecture is not None and part.architecture != architecture_digest(shapes):
            raise UsageError(
                f"The recipe's part for {component} was made for another architecture (digest "
                f"{part.architecture[:12]}…, this checkpoint has {architecture_digest(shapes)[:12]}…); search a recipe "
                "for this one."
            )
        for name in part.layers:
            if name not in shapes:
                raise UsageError(
                    f"The recipe names layer '{name}' but {component} has no weight of that name that can be "
                    "compressed; use a recipe for this architecture."
                )
        for name, layer in part.layers.items():
            channels = shapes[name][0]
            if layer.group_size is not None and channels % layer.group_size:
                raise UsageError(
                    f"The recipe gives layer '{name}' of {component} groups of {layer.group_size} channels, which "
                    f"don't divide its {channels} channels; choose a divisor."
                )
        self._check_default_groups(component, shapes)

    def ungrouped(self, component: ComponentName, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        """Layers that have one lookup table, although they are to have one per group: it doesn't divide them."""
        choices = {name: self.layer(component, name).group_size for name in shapes}
        return [name for name, group in choices.items() if group is not None and shapes[name][0] % group]

    def _check_default_groups(self, component: ComponentName, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """A few layers, such as one of three colours, are never divided; most of the weights must be."""
        whole = self.ungrouped(component, shapes)
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        if 2 * sum(sizes[name] for name in whole) > sum(sizes.values()):
            largest = max(whole, key=lambda name: sizes[name])
            raise UsageError(
                f"A group of {self.layer(component, largest).group_size} channels doesn't divide {len(whole)} of "
                f"{len(shapes)} layers of {component}, such as '{largest}' with {shapes[largest][0]} channels; choose "
                "a divisor of these."
            )


def stored_bytes(shape: Sequence[int], layer: LayerRecipe) -> int:
    """Bytes of a weight of `shape` stored as `layer` says: indices and lookup tables, or fp16 values."""
    size = math.prod(shape)
    if layer.bits == FULL_BITS:
        return 2 * size
    group = layer.group_size or shape[0]
    tables = shape[0] // group if shape[0] % group == 0 else 1
    return math.ceil(size * layer.bits / 8) + tables * 2 * (1 << layer.bits)


def compressible(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a parameter is palettized: convolution kernels of some size; not embeddings, norms and biases."""
    size = 1
    for side in shape:
        size *= side
    return name.endswith(".weight") and len(shape) == 4 and size >= SMALLEST_WEIGHT


def compressible_layers(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Layers a recipe may name, from parameter shapes: {layer name: weight shape}."""
    return {
        name.removesuffix(".weight"): tuple(shape) for name, shape in shapes.items() if compressible(name, tuple(shape))
    }


def architecture_digest(layers: Mapping[str, tuple[int, ...]]) -> str:
    """SHA-256 over layer names and weight shapes: equal for checkpoints that can share a recipe."""
    return sha256_of_value({name: list(shape) for name, shape in sorted(layers.items())})


def check_bits(bits: int) -> None:
    """Raise `UsageError` unless Core ML stores lookup tables of `bits` bits."""
    if bits not in BITS:
        raise UsageError(f"{bits} bits can't be stored in a Core ML package; choose {_bits_list()}, or none for fp16.")


def _bits_list() -> str:
    return ", ".join(map(str, BITS))
