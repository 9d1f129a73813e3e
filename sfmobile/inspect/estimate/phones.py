"""A bundle's size and estimated memory beside what phones allow an app."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sfmobile.export.footprint import bundle_footprint, memory_limits
from sfmobile.inspect.estimate.devices import device_table
from sfmobile.tables import Table, in_bytes

if TYPE_CHECKING:
    from sfmobile.bundle.directory import Bundle
    from sfmobile.export.footprint import Footprint, MemoryLimit


def estimated_footprint(bundle: Bundle) -> Footprint | None:
    """The estimate, which there is of Core ML packages only."""
    if any(record.format != "mlprogram" for record in bundle.manifest.components.values()):
        return None
    return bundle_footprint(bundle)


def phones(memory_gb: float) -> str:
    """Names of the phones with so much memory, for people."""
    devices = [device for device in device_table().devices if device.name.startswith("iPhone ")]
    names = [device.name.removeprefix("iPhone ") for device in devices if device.memory_gb == memory_gb]
    return f"iPhone {', '.join(names)}"


# From the best on.
VERDICTS = (
    "fits",
    "fits if each component is freed behind its use",
    "fits with the entitlement",
    "fits with the entitlement if each component is freed behind its use",
    "fits with one chunk in memory at a time",
    "fits with the entitlement and one chunk in memory at a time",
    "iOS would kill the app",
)


def verdict(footprint: Footprint, limit: MemoryLimit) -> str:
    """What would become of an app that runs the bundle on the Neural Engine."""
    together, single = footprint.all_loaded(), footprint.one_at_a_time()
    limits = (limit.default_bytes, limit.increased_bytes)
    # With one chunk in memory at a time comes last: loading every chunk in every step is slow.
    ways = ((together, single), (footprint.package_at_a_time(),))
    fits = (needed <= allowed for way in ways for allowed in limits for needed in way)
    return next((words for words, fit in zip(VERDICTS, fits, strict=False) if fit), VERDICTS[-1])


# Uniform bits, the most first, and chunks, the fewest first, that are tried for an advice.
ADVISED_BITS = (8, 6, 4)
ADVISED_CHUNKS = (2, 3, 4, 6, 8)


def advice(footprint: Footprint, limit: MemoryLimit) -> str:
    """What would fit phones of this limit: the most bits with all of a step in memory, else chunks one at a time.

    From the estimate alone, activations as they are. Empty where nothing does.
    """
    for bits in ADVISED_BITS:
        if _with_bits(footprint, bits).one_at_a_time() <= limit.increased_bytes < footprint.one_at_a_time():
            return f"--bits {bits} would fit with the entitlement"
    for chunks in ADVISED_CHUNKS:
        if _in_chunks(footprint, chunks).package_at_a_time() <= limit.increased_bytes:
            return f"--chunks {chunks} would fit with the entitlement and one chunk in memory at a time"
    return ""


def _with_bits(footprint: Footprint, bits: int) -> Footprint:
    """The same at uniform bits, whole, kept compressed as far as the target keeps them."""
    parts = tuple(replace(part, compressed=part.decompressed * bits // 16, chunks=()) for part in footprint.components)
    return replace(footprint, components=parts)


def _in_chunks(footprint: Footprint, chunks: int) -> Footprint:
    """The same with what runs in a step cut into chunks, a tenth larger than equal ones."""

    def cut(weights: int) -> int:
        return weights * 11 // (10 * chunks)

    parts = tuple(
        replace(part, chunks=((cut(part.compressed), cut(part.decompressed)),)) if part.per_step else part
        for part in footprint.components
    )
    return replace(footprint, components=parts)


def fit_verdict(bundle: Bundle) -> str | None:
    """The estimated memory of a bundle and the phones it fits, in a sentence; None of what isn't Core ML packages."""
    footprint = estimated_footprint(bundle)
    if footprint is None:
        return None
    verdicts = [(limit.memory_gb, verdict(footprint, limit)) for limit in memory_limits().limits]
    needed = f"{in_bytes(footprint.all_loaded())} at the peak, {in_bytes(footprint.one_at_a_time())} one at a time"
    if len({said for _, said in verdicts}) == 1:
        return f"Memory, estimated: {needed}; {verdicts[0][1]} on every phone ({verdicts[0][0]:g} GB and more)."
    told = "; ".join(f"{memory:g} GB: {said}" for memory, said in verdicts)
    return f"Memory, estimated: {needed}. Phones with {told}."


def warnings(footprint: Footprint) -> Iterator[str]:
    """A sentence for each class of phones on which iOS would kill the app whatever it does."""
    for limit in memory_limits().limits:
        needed = footprint.package_at_a_time()
        if needed > limit.increased_bytes:
            told = advice(footprint, limit)
            mend = "use fewer bits, smaller latents, guidance batch 1, or split-einsum attention"
            yield (
                f"Warning: on phones with {limit.memory_gb:g} GB ({phones(limit.memory_gb)}) iOS would kill the app: "
                f"about {in_bytes(needed)} at its peak even with one package at a time, and no more than "
                f"{in_bytes(limit.increased_bytes)} are allowed (estimated); {mend}{f' ({told})' if told else ''}."
            )


def memory_table(footprint: Footprint) -> Table:
    """The memory a phone needs, beside its limits."""
    unit = "compressed" if footprint.neural_engine_compressed else "fp16"
    return Table(
        f"On the phone, estimated: {in_bytes(footprint.all_loaded())} at the peak with everything loaded, "
        f"{in_bytes(footprint.one_at_a_time())} one component at a time",
        ("phones with", "limit of an app", "with entitlement", "on the Neural Engine"),
        tuple(
            (
                f"{limit.memory_gb:g} GB",
                in_bytes(limit.default_bytes),
                in_bytes(limit.increased_bytes),
                verdict(footprint, limit),
            )
            for limit in memory_limits().limits
        ),
        text_columns=(0, 3),
        caption=f"Weights {unit}; {in_bytes(footprint.all_loaded(False))} on GPU or CPU, where they are fp16. "
        "Limits were measured by others on single phones; sources in sfmobile/export/memory_limits.json.",
    )


def memory_record(footprint: Footprint) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "label": "estimated",
        "all_loaded_bytes": footprint.all_loaded(),
        "one_at_a_time_bytes": footprint.one_at_a_time(),
        "package_at_a_time_bytes": footprint.package_at_a_time(),
        "all_loaded_fp16_bytes": footprint.all_loaded(False),
        "components": {
            part.name: {
                "disk_bytes": part.disk,
                "compressed_bytes": part.compressed,
                "fp16_bytes": part.decompressed,
                "activation_bytes": part.activations,
            }
            for part in footprint.components
        },
        "phones": [
            {
                "memory_gb": limit.memory_gb,
                "default_limit_bytes": limit.default_bytes,
                "increased_limit_bytes": limit.increased_bytes,
                "verdict": verdict(footprint, limit),
            }
            for limit in memory_limits().limits
        ],
    }
