"""Stored weights of a bundle's packages, grouped and summed up for the page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sfmobile.inspect.operations.op_table import Weight

# Weights of fewer values than this (biases, norms) are summed up in one row per package.
SMALL_WEIGHT = 2048


@dataclass(frozen=True)
class StoredWeight:
    """A weight, and the package and block that read it."""

    package: str
    block: str
    weight: Weight


@dataclass(frozen=True)
class Total:
    """What several weights come to: how many they are, their values and bytes, and the values that are palettized."""

    count: int
    values: int
    bytes: int
    palettized_values: int

    @classmethod
    def of(cls, weights: Iterable[StoredWeight]) -> Total:
        """The sum of `weights`."""
        found = [one.weight for one in weights]
        return cls(
            count=len(found),
            values=sum(one.values for one in found),
            bytes=sum(one.bytes for one in found),
            palettized_values=sum(one.values for one in found if one.compressed),
        )

    @property
    def bits(self) -> float:
        """Stored bits per value, tables included."""
        return self.bytes * 8 / max(self.values, 1)

    @property
    def palettized(self) -> float:
        """Share of the values that is palettized, 0 to 1."""
        return self.palettized_values / max(self.values, 1)


@dataclass(frozen=True)
class PackageWeights:
    """The weights of one package: the large ones one by one, all of them and the small ones as a sum."""

    name: str
    all: Total
    large: tuple[StoredWeight, ...]
    small: Total


def by_package(weights: Iterable[StoredWeight]) -> list[PackageWeights]:
    """Weights by the package they are stored in, in the order of the first of each."""
    packages: dict[str, list[StoredWeight]] = {}
    for one in weights:
        packages.setdefault(one.package, []).append(one)
    return [
        PackageWeights(
            name=name,
            all=Total.of(stored),
            large=tuple(one for one in stored if one.weight.values >= SMALL_WEIGHT),
            small=Total.of(one for one in stored if one.weight.values < SMALL_WEIGHT),
        )
        for name, stored in packages.items()
    ]
