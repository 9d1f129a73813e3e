"""What a recipe search found, for people and as JSON."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from sfmobile.cli import console

if TYPE_CHECKING:
    from sfmobile.recipes.search import Point, SearchResult


def show(results: list[SearchResult]) -> None:
    """Sizes and signals of the recipe and of uniform bits, and how the layers are stored."""
    for result in results:
        points = sorted((*result.uniform, result.point), key=lambda point: point.bytes)
        final = "latents" if result.component == "unet" else "output"
        console.print_table(
            f"{result.component}: {len(result.layers)} layers, compared in torch fp32",
            ("stored as", "weights", f"PSNR of {final}", "of single calls", "expected"),
            [
                (
                    point.label,
                    console.in_bytes(point.bytes),
                    in_decibels(point.measured.final_db),
                    in_decibels(point.measured.call_db),
                    in_decibels(point.expected_db),
                )
                for point in points
            ],
            caption=f"{describe_choice(result)}. {describe_gain(result)}",
        )


def in_decibels(value: float) -> str:
    """A PSNR for people."""
    return "identical" if value == float("inf") else f"{value:.2f} dB"


def describe_choice(result: SearchResult) -> str:
    """How many layers have how many bits."""
    counts = Counter(storage.bits for storage in result.choice.storages.values())
    return "Layers: " + ", ".join(f"{count} at {bits} bits" for bits, count in sorted(counts.items()))


def describe_gain(result: SearchResult) -> str:
    """The recipe beside the uniform bits that are nearest in what was asked for."""
    point = result.point
    other = min(result.uniform, key=lambda one: abs(one.bytes - point.bytes))
    if abs(other.bytes - point.bytes) < 0.01 * other.bytes:
        gain = point.measured.final_db - other.measured.final_db
        return f"At the size of {other.label}: {gain:+.1f} dB."
    worse = [one for one in result.uniform if one.measured.final_db <= point.measured.final_db]
    if not worse:
        return "No uniform bits compared with are smaller."
    best = max(worse, key=lambda one: one.measured.final_db)
    return f"{point.bytes / best.bytes - 1:+.1%} of the size of {best.label}, at no less signal."


def record(result: SearchResult) -> dict[str, Any]:
    """A search as JSON."""

    def of(point: Point) -> dict[str, Any]:
        return {
            "label": point.label,
            "bytes": point.bytes,
            "final_db": finite(point.measured.final_db),
            "call_db": finite(point.measured.call_db),
            "expected_db": finite(point.expected_db),
        }

    return {
        "component": result.component,
        "recipe": of(result.point),
        "uniform": [of(point) for point in result.uniform],
        "curve": [of(point) for point in result.curve],
        "layers": {name: storage.model_dump() for name, storage in result.choice.storages.items()},
        "seconds": result.seconds,
    }


def finite(value: float) -> float | None:
    """A figure that JSON can hold; identical results have none."""
    return value if abs(value) != float("inf") else None
