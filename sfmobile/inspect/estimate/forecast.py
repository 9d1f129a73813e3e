"""What a bundle would take of a device, known before it is exported: its programs are drawn without weights, each
weight counted as it would be stored, and sized, timed and held against the phone's memory as a bundle's packages are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfmobile.bundle.choices import AttentionForm
from sfmobile.compress.recipe import FULL_BITS, LayerRecipe
from sfmobile.export.footprint import (
    ComponentFootprint,
    Footprint,
    activation_bytes,
    bundle_footprint,
    memory_limits,
    weight_bytes,
)
from sfmobile.inspect.estimate.phones import verdict
from sfmobile.inspect.estimate.times import DeviceTime, Part, calls, calls_per_picture
from sfmobile.inspect.lint.attention import long_products
from sfmobile.inspect.lint.rule import rule_book
from sfmobile.mlpackage.container import Container
from sfmobile.mlpackage.graph import Graph
from sfmobile.mlpackage.package import Package
from sfmobile.mlpackage.program import Constant, Program, read_program
from sfmobile.mlpackage.types import TensorType
from sfmobile.mlpackage.weight_file import BLOB_METADATA, WeightFiles
from sfmobile.runtime.chunks import part_records

if TYPE_CHECKING:
    from sfmobile.bundle.directory import Bundle
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.export.build import ComponentBuild
    from sfmobile.export.options import ExportOptions
    from sfmobile.export.outline import Outline
    from sfmobile.export.phases import ExportObserver
    from sfmobile.inspect.estimate.devices import Device


@dataclass(frozen=True)
class Content:
    """What a bundle holds, or would hold, as far as its cost goes.

    bits: per weight; None for fp16, 0 for a mixture. pixels: height and width of a picture. parts: its programs and how
    often a picture calls them. long: whether it looks at more queries at once than is known to suit the Neural Engine.
    """

    attention: AttentionForm
    bits: int | None
    latent_size: tuple[int, int]
    pixels: tuple[int, int]
    target: str
    steps: int
    parts: tuple[Part, ...]
    footprint: Footprint
    long: bool


@dataclass(frozen=True)
class Forecast:
    """A content on a device."""

    content: Content
    time: DeviceTime

    @property
    def disk(self) -> int:
        """Bytes of all packages."""
        return sum(part.disk for part in self.content.footprint.components)

    @property
    def call_ms(self) -> float:
        """Milliseconds of a step."""
        steps = self.content.steps
        return sum(
            one.picture_ms / steps for one in self.time.components if self._of(one.component).per_step and one.calls
        )

    @property
    def once_ms(self) -> float:
        """Milliseconds of a picture beside its steps."""
        return self.time.picture_ms - self.call_ms * self.content.steps

    def fit(self, device: Device) -> str | None:
        """What would become of an app on this device; None where no limit is known."""
        if device.memory_gb is None:
            return None
        return verdict(self.content.footprint, memory_limits().of(device.memory_gb))

    def record(self, device: Device) -> dict[str, Any]:
        """As JSON."""
        content = self.content
        return {
            "attention": content.attention,
            "bits": content.bits,
            "latent_size": list(content.latent_size),
            "pixels": list(content.pixels),
            "target": content.target,
            "disk_bytes": self.disk,
            "all_loaded_bytes": content.footprint.all_loaded(),
            "one_at_a_time_bytes": content.footprint.one_at_a_time(),
            "fit": self.fit(device),
            "steps": content.steps,
            "step_ms": self.call_ms,
            "picture_ms": self.time.picture_ms,
            "time": self.time.model_dump(mode="json"),
        }

    def _of(self, component: str) -> ComponentFootprint:
        return next(part for part in self.content.footprint.components if part.name == component)


def bundle_content(bundle: Bundle, steps: int | None = None) -> Content:
    """The content of a bundle of Core ML packages."""
    manifest = bundle.manifest
    programs = {
        name: tuple(read_program(Package(bundle.root / part.package), part.function) for part in part_records(record))
        for name, record in manifest.components.items()
    }
    first = next(iter(manifest.components.values()))
    stored = {record.compression.bits if record.compression else None for record in manifest.components.values()}
    latents = manifest.latents
    factor = latents.pixels_per_latent
    return Content(
        attention=first.attention,
        bits=stored.pop() if len(stored) == 1 else 0,
        latent_size=(latents.height, latents.width),
        pixels=(factor * latents.height, factor * latents.width),
        target=manifest.target,
        steps=manifest.pipeline.default_steps if steps is None else steps,
        parts=tuple(Part(name, found, calls_per_picture(manifest, name, steps)) for name, found in programs.items()),
        footprint=bundle_footprint(bundle),
        long=any(_looks_long(program) for found in programs.values() for program in found),
    )


def checkpoint_content(
    checkpoint: Checkpoint, options: ExportOptions, steps: int | None = None, observer: ExportObserver | None = None
) -> Content:
    """The content of the bundle that `options` would make of a checkpoint, whose weights aren't read.

    Raises `UsageError` for options that don't fit it, and without `steps` for one that doesn't say how many.
    """
    from sfmobile.export.build import ComponentBuild
    from sfmobile.export.component import chosen_components, component_specs, fitted, setting_for, with_wanted
    from sfmobile.export.phases import ExportObserver

    options = fitted(options, checkpoint)
    checkpoint = with_wanted(checkpoint, options)
    setting = setting_for(checkpoint, options)
    count = checkpoint.default_steps if steps is None else steps
    scale = checkpoint.description.guidance_scale
    guided = scale is not None and scale > 1 and not checkpoint.pipeline.takes_guidance
    parts: list[Part] = []
    footprints: list[ComponentFootprint] = []
    specs = component_specs(checkpoint)
    for name in chosen_components(checkpoint, options):
        build = ComponentBuild(specs[name], setting, options, observer or ExportObserver())
        outline = build.outline(setting)
        program = outlined_program(build, outline)
        parts.append(Part(name, (program,), calls(specs[name].runs, count, guided, options.guidance_batch)))
        footprints.append(_footprint(build, program, outline.model.ByteSize()))
    height, width = setting.latent_size
    factor = checkpoint.autoencoder_layout.downsampling
    return Content(
        attention=options.attention,
        bits=options.bits,
        latent_size=(height, width),
        pixels=(factor * height, factor * width),
        target=options.target,
        steps=count,
        parts=tuple(parts),
        footprint=Footprint(tuple(footprints), memory_limits().base_bytes, options.target),
        long=any(_looks_long(program) for part in parts for program in part.programs),
    )


def outlined_program(build: ComponentBuild, outline: Outline) -> Program:
    """An outline's program, each weight with the bytes that it will be stored in. Its weights can't be loaded."""
    path = Path(f"{build.spec.package}.mlpackage")
    program = read_program(Package(Container(path, outline.model, WeightFiles(Path()))))
    return replace(program, constants=dict(_stored(program.constants, build.package(build.setting).constants)))


def _stored(constants: Mapping[str, Constant], layers: Mapping[str, LayerRecipe]) -> Iterator[tuple[str, Constant]]:
    """Constants as the recipe stores them: indices of so many bits, and lookup tables."""
    from sfmobile.export.filling import LEAST_IN_FILE

    for name, constant in constants.items():
        layer = layers.get(name)
        if layer is None or layer.bits == FULL_BITS:
            # An outline holds what isn't a weight itself, where a package has it in the file.
            own = constant.type.is_float and constant.type.elements >= LEAST_IN_FILE
            size = constant.type.bytes + BLOB_METADATA.size
            yield name, replace(constant, file_bytes=size) if own else constant
            continue
        channels = constant.type.sizes[0]
        group = layer.group_size or channels
        tables = channels // group if channels % group == 0 else 1
        stored = {
            "indices": TensorType(f"uint{layer.bits}", constant.type.shape),
            "lut": TensorType("fp16", (tables, 1 << layer.bits, 1)),
        }
        in_file = sum(type_.bytes + BLOB_METADATA.size for type_ in stored.values())
        yield name, replace(constant, compressed=True, stored=stored, file_bytes=in_file)


def _footprint(build: ComponentBuild, program: Program, model_bytes: int) -> ComponentFootprint:
    """model_bytes: of the program without weights."""
    graph = Graph(program)
    stored, dense = weight_bytes(graph)
    per_step = build.spec.runs == "per_step"
    return ComponentFootprint(build.name, model_bytes + stored, stored, dense, activation_bytes(graph), per_step)


def _looks_long(program: Program) -> bool:
    return bool(long_products(Graph(program), rule_book().rule("long-queries")))
