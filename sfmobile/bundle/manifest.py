"""The bundle's manifest: everything both sides need to run it, and nothing either side hardcodes."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
    model_validator,
)
from typing_extensions import Self

from sfmobile.bundle.choices import AttentionForm, FloatType, Format, Runs, Target
from sfmobile.bundle.choices import ComponentName as ComponentName
from sfmobile.bundle.overlays import OverlayRecord
from sfmobile.bundle.overlays import Sha256 as Sha256
from sfmobile.bundle.pipeline import ComponentKey, PipelineRecord
from sfmobile.bundle.samplers import SamplerRecord
from sfmobile.errors import UsageError
from sfmobile.files import StrictModel

SCHEMA_VERSION: Final = 2


def check_relative_path(path: str) -> str:
    """A bundle path is relative, POSIX, normal, and stays inside the bundle."""
    parts = path.split("/")
    if "\\" in path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"'{path}' is not a relative path inside the bundle")
    return path


# The same rule as `check_relative_path`, for readers that only have the schema.
PATH_PATTERN = r"^(?!.*(^|/)\.{1,2}(/|$))(?!.*//)(?!/)[^\\\u0000]+(?<!/)$"

BundlePath = Annotated[
    str,
    AfterValidator(check_relative_path),
    WithJsonSchema({"type": "string", "pattern": PATH_PATTERN}),
]


class FileRecord(StrictModel):
    """Size and checksum of one file."""

    bytes: int = Field(ge=0)
    sha256: Sha256


Files = Annotated[dict[BundlePath, FileRecord], Field(json_schema_extra={"additionalProperties": False})]


class TensorRecord(StrictModel):
    """One input or output of a component."""

    name: str
    shape: tuple[int, ...]
    dtype: Literal["float16", "float32", "int32"]
    description: str = ""


class CompressionRecord(StrictModel):
    """How the weights are stored. `bits` is the most frequent choice; a recipe may differ per layer.

    ungrouped_layers: how many have one lookup table, since `group_size` doesn't divide their channels.
    """

    kind: Literal["palettized"] = "palettized"
    bits: int
    group_size: int | None = None
    ungrouped_layers: int = Field(default=0, ge=0)
    recipe_sha256: Sha256 | None = None


class ChunkRecord(StrictModel):
    """One of the packages that a component is cut into, run one after the other.

    inputs: inputs of the component, or outputs of earlier chunks, by name. outputs: what later chunks or the
    component's caller take.
    """

    package: BundlePath
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    bytes: int = Field(ge=0)


class FunctionRecord(StrictModel):
    """Another function of a component's package: the same weights for other shapes."""

    function: str
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]


class ComponentRecord(StrictModel):
    """One exported component.

    runs: when it is called. package: an .mlpackage, .aimodel or .onnx file; for a component in chunks, the directory
    that holds their packages. function, inputs, outputs: those of the function to run. functions: the others in the
    same package.
    """

    runs: Runs
    format: Format
    package: BundlePath
    function: str = "main"
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    compute_precision: FloatType
    attention: AttentionForm
    compression: CompressionRecord | None
    parameters: int = Field(ge=0)
    bytes: int = Field(ge=0)
    source_sha256: Sha256
    options_sha256: Sha256
    files: Files
    chunks: tuple[ChunkRecord, ...] = ()
    functions: tuple[FunctionRecord, ...] = ()

    @model_serializer(mode="wrap")
    def _without_empty_lists(self, default: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A component that has neither reads like those of readers that know neither.
        content: dict[str, Any] = default(self)
        return {key: value for key, value in content.items() if key not in ("chunks", "functions") or value}

    @model_validator(mode="after")
    def _files_belong_to_package(self) -> Self:
        # A package is a directory (.mlpackage) or a file with companions (UNet.onnx, UNet.onnx.data).
        prefixes = (f"{self.package}/", f"{self.package}.")
        if not self.files:
            raise ValueError(f"no file is recorded for package '{self.package}'")
        for path in self.files:
            if path != self.package and not path.startswith(prefixes):
                raise ValueError(f"file '{path}' lies outside package '{self.package}'")
        return self

    @model_validator(mode="after")
    def _chunks_follow_each_other(self) -> Self:
        if not self.chunks:
            return self
        if self.format == "onnx" or self.functions or len(self.chunks) < 2:
            raise ValueError("chunks are two or more packages of one function, none of them an ONNX file")
        known = {tensor.name: (tensor.shape, tensor.dtype) for tensor in self.inputs}
        for chunk in self.chunks:
            if not any(path.startswith(f"{chunk.package}/") for path in self.files):
                raise ValueError(f"no file is recorded for chunk '{chunk.package}'")
            for tensor in chunk.inputs:
                if known.get(tensor.name) != (tensor.shape, tensor.dtype):
                    raise ValueError(f"chunk '{chunk.package}' takes '{tensor.name}', which nothing before it gives")
            known.update({tensor.name: (tensor.shape, tensor.dtype) for tensor in chunk.outputs})
        for tensor in self.outputs:
            if known.get(tensor.name) != (tensor.shape, tensor.dtype):
                raise ValueError(f"no chunk gives the output '{tensor.name}'")
        return self

    @model_validator(mode="after")
    def _functions_differ(self) -> Self:
        names = [self.function, *(other.function for other in self.functions)]
        if len(set(names)) != len(names):
            raise ValueError(f"functions of one name: {', '.join(names)}")
        return self

    def selected(self, function: str) -> ComponentRecord:
        """The record with `function` as the one to run."""
        if function == self.function:
            return self
        own = FunctionRecord(function=self.function, inputs=self.inputs, outputs=self.outputs)
        others = {other.function: other for other in (own, *self.functions)}
        wanted = others.pop(function)
        return self.model_copy(update={**dict(wanted), "functions": tuple(others.values())})

    def all_functions(self) -> tuple[FunctionRecord, ...]:
        """Every function of the package, the one to run first."""
        return (FunctionRecord(function=self.function, inputs=self.inputs, outputs=self.outputs), *self.functions)


class LatentsRecord(StrictModel):
    """Shape of the latents and their relation to pixels and to the decoder's input."""

    channels: int
    height: int
    width: int
    pixels_per_latent: int
    scaling_factor: float

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width of the pictures in pixels."""
        return self.height * self.pixels_per_latent, self.width * self.pixels_per_latent


class GuidanceRecord(StrictModel):
    """Classifier-free guidance: the UNet's batch (2 = unconditional and conditional in one call) and default scale."""

    batch: Literal[1, 2]
    default_scale: float


class TimeEmbeddingRecord(StrictModel):
    """The sinusoid the host computes: `dimension` values, cosines first if `flip_sin_to_cos`."""

    kind: Literal["sinusoid"] = "sinusoid"
    dimension: int
    flip_sin_to_cos: bool = True
    frequency_shift: float = 0.0
    max_period: float = 10000.0


class TokenizerRecord(StrictModel):
    """CLIP byte-pair tokenizer: files and the ids both sides must agree on.

    added_tokens: found in a prompt before it is cut into words, whatever the case of its letters; exact_tokens: the
    same, as they are written. Start and end of text are among them; a bundle that has neither means these two, whatever
    their case.
    """

    vocab: BundlePath
    merges: BundlePath
    max_length: int
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int
    added_tokens: dict[str, Annotated[int, Field(strict=True, ge=0)]] = Field(default_factory=dict)
    exact_tokens: dict[str, Annotated[int, Field(strict=True, ge=0)]] = Field(default_factory=dict)
    files: Files

    @model_validator(mode="after")
    def _vocabulary_is_recorded(self) -> Self:
        for path in (self.vocab, self.merges):
            if path not in self.files:
                raise ValueError(f"tokenizer file '{path}' has no checksum")
        return self


class GoldenRecord(StrictModel):
    """Committed reference vectors: .npy files by name, with the run that made them."""

    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    guidance_scale: float
    files: Files


class SafetyPictureRecord(StrictModel):
    """How a picture is brought to a safety checker, as transformers' CLIPImageProcessor does.

    shortest_edge: pixels that the shorter side is scaled to, bicubic, the longer one in proportion and rounded down.
    crop_size: pixels of the square cut from its middle. mean, std: of the colours, 0 to 1, that are taken off and
    divided by.
    """

    shortest_edge: int = Field(ge=1)
    crop_size: int = Field(ge=1)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @model_validator(mode="after")
    def _can_be_cut(self) -> Self:
        if self.crop_size > self.shortest_edge:
            raise ValueError(f"a square of {self.crop_size} can't be cut from {self.shortest_edge} pixels")
        if min(self.std) <= 0:
            raise ValueError("a standard deviation is above 0")
        return self


class SafetyRecord(StrictModel):
    """What a picture is compared with before it is shown: diffusers' StableDiffusionSafetyChecker.

    concepts, special_care: .npy files of float32 embeddings, a row each. concept_thresholds, special_care_thresholds:
    the cosine above which a picture's embedding is too close to that row. picture: what the component is given.
    """

    concepts: BundlePath
    special_care: BundlePath
    concept_thresholds: tuple[float, ...] = Field(min_length=1)
    special_care_thresholds: tuple[float, ...]
    picture: SafetyPictureRecord
    files: Files

    @model_validator(mode="after")
    def _embeddings_are_recorded(self) -> Self:
        for path in (self.concepts, self.special_care):
            if path not in self.files:
                raise ValueError(f"file '{path}' of the safety checker has no checksum")
        return self


class SourceRecord(StrictModel):
    """Where the weights came from, and what was laid over them.

    revision: the commit of a model on the Hub. tokenizer, prediction: of a single file, which holds neither. ema:
    whether its averaged weights were taken.
    """

    id: str
    sha256: Sha256
    licence: str = ""
    revision: str | None = None
    tokenizer: str | None = None
    prediction: Literal["epsilon", "v_prediction"] | None = None
    ema: bool = False
    overlays: tuple[OverlayRecord, ...] = ()


class Manifest(StrictModel):
    """`manifest.json`."""

    schema_version: Literal[2]
    name: str
    source: SourceRecord
    target: Target
    options: dict[str, Any]
    tools: dict[str, str]
    pipeline: PipelineRecord
    components: dict[ComponentKey, ComponentRecord]
    sampler: SamplerRecord
    latents: LatentsRecord
    guidance: GuidanceRecord
    time_embedding: TimeEmbeddingRecord
    tokenizers: dict[ComponentKey, TokenizerRecord]
    golden: GoldenRecord | None = None
    safety: SafetyRecord | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, default: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A bundle without a safety checker reads like those of readers that know none.
        content: dict[str, Any] = default(self)
        return {key: value for key, value in content.items() if key != "safety" or value is not None}

    @model_validator(mode="after")
    def _components_are_of_the_pipeline(self) -> Self:
        strangers = sorted(set(self.components) - set(self.pipeline.components))
        if strangers:
            raise ValueError(f"the pipeline has no component '{strangers[0]}'")
        for text in self.pipeline.texts:
            if text.tokenizer not in self.tokenizers:
                raise ValueError(f"no tokenizer is recorded as '{text.tokenizer}'")
        if (self.pipeline.safety_checker in self.components) != (self.safety is not None):
            raise ValueError("a safety checker's component and its concepts stand in a manifest together or not at all")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether the bundle holds every component that its task takes."""
        return set(self.components) == set(self.pipeline.components)

    @property
    def can_draw(self) -> bool:
        """Whether the bundle draws pictures: it is whole, and its task is one that sfmobile runs."""
        return self.is_whole and self.pipeline.task == "text-to-image"

    @property
    def tokenizer(self) -> TokenizerRecord:
        """The tokenizer of the (first) text condition."""
        return self.tokenizers[self.pipeline.text.tokenizer]

    def shapes(self) -> tuple[tuple[int, int, int], ...]:
        """Latent height, latent width and guidance batch of every function of the UNet, the one to run first."""
        unet = self.components.get(self.pipeline.unet)
        if unet is None:
            return ((self.latents.height, self.latents.width, self.guidance.batch),)
        found = []
        for function in unet.all_functions():
            batch, _, height, width = _latents_shape(function.inputs)
            found.append((height, width, batch))
        return tuple(found)

    def for_shapes(self, latent_size: tuple[int, int] | None = None, guidance_batch: int | None = None) -> Manifest:
        """The manifest with the functions for another latent size (height, width) and guidance batch selected.

        None keeps what is selected. Raises `UsageError` naming what the bundle was exported for.
        """
        height, width = latent_size or (self.latents.height, self.latents.width)
        batch = guidance_batch or self.guidance.batch
        available = self.shapes()
        if (height, width, batch) not in available:
            raise UsageError(
                f"This bundle has no UNet for latents {height}x{width} and guidance batch {batch}; it was exported for "
                f"{', '.join(f'{h}x{w} and batch {b}' for h, w, b in available)}."
            )
        components = dict(self.components)
        for name, record in components.items():
            if (own := self._latents_of(record)) is not None:
                wanted = (batch if record.runs == "per_step" else own[0], height, width)
                components[name] = self._select(name, record, wanted)
        return self.model_copy(
            update={
                "components": components,
                "latents": self.latents.model_copy(update={"height": height, "width": width}),
                "guidance": self.guidance.model_copy(update={"batch": batch}),
            }
        )

    def _latents_of(self, function: ComponentRecord | FunctionRecord) -> tuple[int, int, int] | None:
        """Batch, height and width of the latents that a function is for, told by what it takes or gives: latents, or
        pixels of them; None for one whose shapes don't depend on their size."""
        factor = self.latents.pixels_per_latent
        sizes = {(height, width) for height, width, _ in self.shapes()}
        for tensor in (*function.inputs, *function.outputs):
            # What a safety checker is given has a size of its own.
            if len(tensor.shape) == 4 and tensor.name != "pixel_values":
                batch, _, height, width = tensor.shape
                if tensor.name == "image":
                    height, width = height // factor, width // factor
                if (height, width) in sizes:
                    return batch, height, width
        return None

    def _select(self, name: str, record: ComponentRecord, wanted: tuple[int, int, int]) -> ComponentRecord:
        """`record` with the function for latents of that batch, height and width."""
        for function in record.all_functions():
            if self._latents_of(function) == wanted:
                return record.selected(function.function)
        raise UsageError(
            f"The bundle's {name} has no function for latents {wanted[1]}x{wanted[2]}; export it again with "
            "--multifunction-decoder."
        )


def _latents_shape(inputs: tuple[TensorRecord, ...]) -> tuple[int, ...]:
    return next(tensor.shape for tensor in inputs if tensor.name == "latents")
