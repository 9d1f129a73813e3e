"""What an export is asked to make."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from sfmobile.bundle.choices import (
    ATTENTION_FORMS,
    FLOAT_TYPES,
    FORMATS,
    TARGETS,
    AttentionForm,
    ComponentName,
    FloatType,
    Format,
    Target,
)
from sfmobile.compress.recipe import Recipe, check_bits
from sfmobile.errors import UsageError
from sfmobile.files import sha256_of_value

MOST_CHUNKS = 16
# Of 75 tokens; a UNet looks at every token from every place of a picture.
MOST_PROMPT_CHUNKS = 8
# The form of ML Programs that .aimodels are made from: it has every palette, and attention as one operation.
COREAI_TARGET: Target = "ios18"

# Raised whenever the same checkpoint and options give another program than before, so that nothing stale is reused.
EXPORT_REVISION = 2


@dataclass(frozen=True)
class Variation:
    """Which options change a component's package.

    sized: its shapes depend on the size of the latents. batched: and on the guidance batch, as those of all that a step
    calls. cut: it is cut into chunks where they are asked for.
    """

    sized: bool = False
    batched: bool = False
    cut: bool = False


FIXED = Variation()
SIZED = Variation(sized=True)
EVERY_STEP = Variation(sized=True, batched=True)


@dataclass(frozen=True)
class ExportOptions:
    """Options of one export. Raises `UsageError` at once for what can't be made.

    target: the earliest system the packages run on; `COREAI_TARGET` for .aimodels. attention: see
    `sfmobile.nets.attention`.
    bits, group_size, recipe: palettization of the weights; `recipe` excludes the other two. None leaves fp16.
    components: which to (re)build; None for all of the checkpoint's pipeline. extras: optional components that its
    pipeline is to have too. latent_size: (height, width), the
    checkpoint's own if None. sizes: (height, width) of pictures in pixels, in place of latent_size and
    more_latent_sizes; `fitted` puts those in their place.
    guidance_batch: batch of the UNet; 2 runs the unconditional and the conditional half in one call.
    chunks: packages the UNet is cut into. multifunction: further functions in the packages, of the same weights: for
    `more_latent_sizes`, and for the UNet also for the other guidance batch. multifunction_decoder: for the decoder too;
    off, since iOS 18 was seen to crash while loading one (coremltools issue 2414), and then the other sizes can't be
    decoded.
    both_batches: whether a UNet of several functions gets the other guidance batch too.
    clip_skip: last layers of the text encoder to leave out, counted as diffusers does: 1 leaves out one. They are gone
    for the negative prompt too, as elsewhere than in diffusers.
    prompt_chunks: runs of the text encoder's tokens that the UNet reads side by side, for long prompts.
    default_steps, default_guidance: of a picture that nobody asks otherwise for; the checkpoint's own without them.
    precision: float32 is for ONNX only; Core ML packages are float16.
    force: rebuild components that are whole and current. metadata: user-defined keys of every package.
    """

    target: Target = "ios17"
    format: Format = "mlprogram"
    attention: AttentionForm = "split-einsum"
    bits: int | None = None
    group_size: int | None = None
    recipe: Recipe | None = None
    components: tuple[ComponentName, ...] | None = None
    extras: tuple[ComponentName, ...] = ()
    latent_size: tuple[int, int] | None = None
    sizes: tuple[tuple[int, int], ...] = ()
    guidance_batch: Literal[1, 2] = 2
    chunks: int = 1
    multifunction: bool = False
    multifunction_decoder: bool = False
    more_latent_sizes: tuple[tuple[int, int], ...] = ()
    both_batches: bool = True
    clip_skip: int = 0
    prompt_chunks: int = 1
    default_steps: int | None = None
    default_guidance: float | None = None
    precision: FloatType = "float16"
    force: bool = False
    author: str = ""
    licence: str | None = None
    version: str = ""
    metadata: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_choice("target", self.target, TARGETS)
        _check_choice("format", self.format, FORMATS)
        _check_choice("attention form", self.attention, ATTENTION_FORMS)
        _check_choice("precision", self.precision, FLOAT_TYPES)
        _check_choice("guidance batch", self.guidance_batch, (1, 2))
        if self.components is not None and not self.components:
            raise UsageError("No component chosen; name at least one, or leave it to the checkpoint's pipeline.")
        if not 1 <= self.prompt_chunks <= MOST_PROMPT_CHUNKS:
            raise UsageError(f"{self.prompt_chunks} prompt chunks are impossible; expected 1 to {MOST_PROMPT_CHUNKS}.")
        if self.default_steps is not None and self.default_steps < 1:
            raise UsageError(f"{self.default_steps} steps make no picture; expected 1 or more.")
        if self.default_guidance is not None and not 0 <= self.default_guidance < math.inf:
            raise UsageError(f"The guidance scale {self.default_guidance} makes no sense; expected 0 or more.")
        if self.recipe is not None and (self.bits is not None or self.group_size is not None):
            raise UsageError("A recipe already says bits and group size; give either the recipe or those.")
        compression = self.compression
        if self.format == "onnx":
            if compression is not None:
                raise UsageError(
                    "ONNX files are not palettized; leave out bits and recipe, or export Core ML packages."
                )
        elif self.precision != "float16":
            raise UsageError("Core ML and Core AI are float16; precision float32 is for --format onnx.")
        if self.format == "coreai" and self.target != COREAI_TARGET:
            raise UsageError(f"An .aimodel is for iOS 27, whatever the target; leave out the target {self.target}.")
        if compression is not None:
            compression.check_target(self.target)
        self._check_packaging()

    def _check_packaging(self) -> None:
        """Chunks and functions are of Core ML packages, exclude each other, and functions need iOS 18."""
        if not 1 <= self.chunks <= MOST_CHUNKS:
            raise UsageError(f"{self.chunks} chunks are impossible; expected 1 to {MOST_CHUNKS}.")
        if self.sizes and self.latent_size is not None:
            raise UsageError("A size in pixels and one in latents were given; leave out one of them.")
        if (self.more_latent_sizes or self.sizes[1:]) and not self.multifunction:
            raise UsageError("Several latent sizes need packages of several functions; ask for multifunction too.")
        if self.format == "onnx" and (self.chunks > 1 or self.multifunction):
            raise UsageError("Chunks and functions are of Core ML packages; leave them out for ONNX files.")
        if self.multifunction_decoder and not (self.more_latent_sizes or self.sizes[1:]):
            raise UsageError("A decoder of several functions is for several latent sizes; give those, or leave it out.")
        if self.multifunction and self.target != "ios18":
            raise UsageError(f"Packages of several functions need target ios18, found {self.target}.")
        if self.multifunction and self.chunks > 1:
            raise UsageError("A package in chunks can't have several functions; choose one of the two.")

    @property
    def compression(self) -> Recipe | None:
        """The recipe in force: the given one, or a uniform one of `bits` and `group_size`, or None."""
        if self.recipe is not None:
            return self.recipe
        if self.bits is None:
            if self.group_size is not None:
                raise UsageError("A group size needs bits; give both.")
            return None
        check_bits(self.bits)
        return Recipe.uniform(self.bits, self.group_size)

    def digest(self, component: ComponentName, variation: Variation, latent_size: tuple[int, int]) -> str:
        """SHA-256 over what changes `component`: options that only concern another one are left out."""
        compression = self.compression
        value: dict[str, Any] = {
            "revision": EXPORT_REVISION,
            "target": self.target,
            "format": self.format,
            "attention": self.attention,
            "precision": self.precision,
            "compression": None if compression is None else compression.for_component(component),
            "author": self.author,
            "licence": self.licence,
            "version": self.version,
            "metadata": self.metadata,
        }
        if variation.sized:
            value["latent_size"] = list(latent_size)
        if variation.batched:
            value["guidance_batch"] = self.guidance_batch
        if variation.cut and self.chunks > 1:
            value["chunks"] = self.chunks
        if variation.batched and self.prompt_chunks > 1:
            value["prompt_chunks"] = self.prompt_chunks
        functions = self.functions(variation, latent_size)
        if len(functions) > 1:
            value["functions"] = [list(shapes) for shapes in functions]
        return sha256_of_value(value)

    def functions(self, variation: Variation, latent_size: tuple[int, int]) -> tuple[tuple[int, int, int], ...]:
        """Latent height, latent width and guidance batch of each function of a component, the default one first.

        Shapes that it doesn't depend on aren't varied. `latent_size` is the default one.
        """
        sizes, batches = [latent_size], [self.guidance_batch]
        if self.multifunction if variation.batched else variation.sized and self.multifunction_decoder:
            sizes += [size for size in self.more_latent_sizes if size not in sizes]
        if self.multifunction and self.both_batches and variation.batched:
            batches.append(1 if self.guidance_batch == 2 else 2)
        return tuple((height, width, batch) for height, width in sizes for batch in batches)

    def record(self, latent_size: tuple[int, int]) -> dict[str, Any]:
        """The options as the manifest keeps them."""
        compression = self.compression
        return {
            **({"experimental": True} if self.format == "coreai" else {}),
            "target": self.target,
            "format": self.format,
            "attention": self.attention,
            "precision": self.precision,
            "compression": None if compression is None else compression.model_dump(mode="json"),
            "latent_size": list(latent_size),
            "guidance_batch": self.guidance_batch,
            "chunks": self.chunks,
            "functions": [list(shapes) for shapes in self.functions(EVERY_STEP, latent_size)],
            "default_steps": self.default_steps,
            "default_guidance": self.default_guidance,
        }


def _check_choice(what: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise UsageError(f"Unknown {what} '{value}'; expected one of {', '.join(map(str, choices))}.")
