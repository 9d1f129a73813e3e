"""A bundle's size and estimated memory beside what phones allow an app."""

from __future__ import annotations

from collections.abc import Iterator
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
    "iOS would kill the app",
)


def verdict(footprint: Footprint, limit: MemoryLimit) -> str:
    """What would become of an app that runs the bundle on the Neural Engine."""
    together, single = footprint.all_loaded(), footprint.one_at_a_time()
    limits = (limit.default_bytes, limit.increased_bytes)
    fits = (needed <= allowed for allowed in limits for needed in (together, single))
    return next((words for words, fit in zip(VERDICTS, fits, strict=False) if fit), VERDICTS[-1])


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
        needed = footprint.one_at_a_time()
        if needed > limit.increased_bytes:
            yield (
                f"Warning: on phones with {limit.memory_gb:g} GB ({phones(limit.memory_gb)}) iOS would kill the app: "
                f"about {in_bytes(needed)} at its peak even with one component at a time, and no more than "
                f"{in_bytes(limit.increased_bytes)} are allowed (estimated); use fewer bits, smaller latents, "
                "guidance batch 1, or split-einsum attention."
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
