"""A bundle's size and estimated memory beside what phones allow an app."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sfmobile.cli import console

if TYPE_CHECKING:
    from sfmobile.bundle.directory import Bundle
    from sfmobile.export.footprint import Footprint, MemoryLimit


def is_estimated(bundle: Bundle) -> bool:
    """Whether there is an estimate: of Core ML packages only."""
    return all(record.format == "mlprogram" for record in bundle.manifest.components.values())


def phones(memory_gb: float) -> str:
    """Names of the phones with so much memory, for people."""
    from sfmobile.inspect.estimate.devices import device_table

    devices = [device for device in device_table().devices if device.name.startswith("iPhone ")]
    names = [device.name.removeprefix("iPhone ") for device in devices if device.memory_gb == memory_gb]
    return f"iPhone {', '.join(names)}"


def verdict(footprint: Footprint, limit: MemoryLimit) -> str:
    """What would become of an app that runs the bundle on the Neural Engine."""
    together, single = footprint.all_loaded(), footprint.one_at_a_time()
    if together <= limit.default_bytes:
        return "fits"
    if single <= limit.default_bytes:
        return "fits if each component is freed behind its use"
    if together <= limit.increased_bytes:
        return "fits with the entitlement"
    if single <= limit.increased_bytes:
        return "fits with the entitlement if each component is freed behind its use"
    return "iOS would kill the app"


def warnings(footprint: Footprint) -> Iterator[str]:
    """A sentence for each class of phones on which iOS would kill the app whatever it does."""
    from sfmobile.export.footprint import memory_limits

    for limit in memory_limits().limits:
        needed = footprint.one_at_a_time()
        if needed > limit.increased_bytes:
            yield (
                f"Warning: on phones with {limit.memory_gb:g} GB ({phones(limit.memory_gb)}) iOS would kill the app: "
                f"about {console.in_bytes(needed)} at its peak even with one component at a time, and no more than "
                f"{console.in_bytes(limit.increased_bytes)} are allowed (estimated); use fewer bits, smaller latents, "
                "guidance batch 1, or split-einsum attention."
            )


def show(bundle: Bundle) -> None:
    """The memory a phone needs, beside its limits; nothing for ONNX files."""
    if not is_estimated(bundle):
        return
    from sfmobile.export.footprint import bundle_footprint, memory_limits

    footprint = bundle_footprint(bundle)
    rows = [
        (
            f"{limit.memory_gb:g} GB",
            console.in_bytes(limit.default_bytes),
            console.in_bytes(limit.increased_bytes),
            verdict(footprint, limit),
        )
        for limit in memory_limits().limits
    ]
    unit = "compressed" if footprint.neural_engine_compressed else "fp16"
    console.print_table(
        f"On the phone, estimated: {console.in_bytes(footprint.all_loaded())} at the peak with everything loaded, "
        f"{console.in_bytes(footprint.one_at_a_time())} one component at a time",
        ("phones with", "limit of an app", "with entitlement", "on the Neural Engine"),
        rows,
        text_columns=(0, 3),
        caption=f"Weights {unit}; {console.in_bytes(footprint.all_loaded(False))} on GPU or CPU, where they are fp16. "
        "Limits were measured by others on single phones; sources in sfmobile/export/memory_limits.json.",
    )
    for warning in warnings(footprint):
        console.note(warning)


def record(bundle: Bundle) -> dict[str, Any] | None:
    """The same as JSON."""
    if not is_estimated(bundle):
        return None
    from sfmobile.export.footprint import bundle_footprint, memory_limits

    footprint = bundle_footprint(bundle)
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
