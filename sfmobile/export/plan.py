"""What an export would make and what it needs, known before any work: parameters, bytes, disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sfmobile.bundle.manifest import ComponentName, TensorRecord
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.compress.recipe import LayerRecipe, Recipe, compressible, compressible_layers, stored_bytes
from sfmobile.export.component import chosen_components, component_specs, fitted, setting_for, with_wanted
from sfmobile.export.coreai_asset import stored_as
from sfmobile.export.options import ExportOptions

# Graph, names and small constants per stored tensor: 1.1 to 4.7 kB measured on Stable Diffusion 1.5, the most with
# split-einsum-v2.
GRAPH_BYTES_PER_TENSOR = 4096


@dataclass(frozen=True)
class ComponentPlan:
    """One component to be built: its size on disk is estimated to a few per cent (`bytes`), `scratch_bytes` come and
    go while it is written."""

    name: ComponentName
    parameters: int
    bytes: int
    scratch_bytes: int
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]


@dataclass(frozen=True)
class ExportPlan:
    """All components asked for. `disk_bytes` must be free before the work starts."""

    latent_size: tuple[int, int]
    components: tuple[ComponentPlan, ...]

    @property
    def disk_bytes(self) -> int:
        """Bytes of all packages and of the largest scratch file."""
        return sum(part.bytes for part in self.components) + max(part.scratch_bytes for part in self.components)


def plan_export(checkpoint: Checkpoint, options: ExportOptions) -> ExportPlan:
    """Plan without touching the disk. Raises `UsageError` for sizes and recipes that don't fit the checkpoint."""
    options = fitted(options, checkpoint)
    checkpoint = with_wanted(checkpoint, options).with_clip_skip(options.clip_skip)
    checkpoint = checkpoint.with_prompt_chunks(options.prompt_chunks)
    setting = setting_for(checkpoint, options)
    specs = component_specs(checkpoint)
    if options.compression is not None:
        options.compression.check_names(specs)
    parts = []
    for name in chosen_components(checkpoint, options):
        weights = checkpoint.state_dict(name)
        shapes = {key: tuple(weight.shape) for key, weight in weights.items()}
        recipe = options.compression
        if recipe is not None:
            recipe.check_component(name, compressible_layers(shapes))
        # A converter of whole networks is given weights of one type, which are cast into a file; packages are filled.
        cast = options.format == "onnx" and not all(str(weight.dtype) == "torch.float16" for weight in weights.values())
        parameters = sum(weight.numel() for weight in weights.values())
        width = 4 if options.precision == "float32" else 2
        functions = len(options.functions(specs[name].variation, setting.latent_size))
        core_ai = options.format == "coreai"
        stored = component_bytes(name, shapes, recipe, width)
        packages = component_bytes(name, shapes, recipe, width, stored_as) if core_ai else stored
        graph = GRAPH_BYTES_PER_TENSOR * len(weights)
        # A package to be cut, bridged, or merged with others stands on disk beside what is made of it.
        in_pieces = core_ai or functions > 1 or (specs[name].variation.cut and options.chunks > 1)
        whole = functions * (graph + stored) if in_pieces else 0
        parts.append(
            ComponentPlan(
                name=name,
                parameters=parameters,
                bytes=functions * graph + packages,
                scratch_bytes=whole + (2 * parameters if cast else 0),
                inputs=specs[name].inputs(setting),
                outputs=specs[name].outputs(setting),
            )
        )
    return ExportPlan(setting.latent_size, tuple(parts))


def component_bytes(
    component: ComponentName,
    shapes: Mapping[str, tuple[int, ...]],
    recipe: Recipe | None,
    width: int = 2,
    stored_as: Callable[[LayerRecipe], LayerRecipe] = lambda layer: layer,
) -> int:
    """Bytes of all weights as `recipe` stores them; uncompressed ones take `width` bytes each.

    stored_as: how a format stores what the recipe asks for.
    """
    total = 0
    for key, shape in shapes.items():
        if recipe is None or not compressible(key, shape):
            total += width * math.prod(shape)
        else:
            total += stored_bytes(shape, stored_as(recipe.layer(component, key.removesuffix(".weight"))))
    return total
