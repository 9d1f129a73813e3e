"""Reading a diffusers-format directory: layouts from the configs, weights memory-mapped from safetensors."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import Field

from sfmobile.bundle.manifest import TimeEmbeddingRecord
from sfmobile.bundle.pipeline import (
    PREVIEW,
    SAFETY_CHECKER,
    UNET,
    ComponentKey,
    PipelineRecord,
    ResidualsCondition,
    TextCondition,
    in_running_order,
)
from sfmobile.bundle.samplers import SamplerRecord
from sfmobile.checkpoint.config import (
    ForeignConfig,
    Json,
    added_embedding,
    autoencoder_layout,
    autoencoder_parts,
    latent_size,
    parse,
    read_config,
    time_embedding,
    unet_layout,
)
from sfmobile.checkpoint.controlnet import ControlNetFiles
from sfmobile.checkpoint.description import Description, describe, kind_of
from sfmobile.checkpoint.foreign import no_pipeline, refuse_pipeline
from sfmobile.checkpoint.overlays.laid import Laid
from sfmobile.checkpoint.safety_checker import SafetyCheckerFiles
from sfmobile.checkpoint.scheduler import SCHEDULER_FILE, read_sampler, read_scheduler_file
from sfmobile.checkpoint.source import Prediction, Source
from sfmobile.checkpoint.text import TextPart, read_text_part
from sfmobile.checkpoint.tokenizer import TokenizerConstants
from sfmobile.checkpoint.weights import FOLDERS, ComponentFiles, PartName, StoredWeights, read_weights
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.models import find_checkpoint
from sfmobile.nets.layout import (
    AutoencoderLayout,
    ControlNetLayout,
    TextEncoderLayout,
    TinyAutoencoderLayout,
    UNetLayout,
    VisionEncoderLayout,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Default = TypeVar("Default", int, float)
MODEL_INDEX = "model_index.json"
_POSITIONS = "position_embedding.weight"
# Keys that diffusers skips (it drops names with an underscore in front) and that sfmobile writes.
GUIDANCE_KEY = "_default_guidance_scale"
STEPS_KEY = "_default_steps"


class _Saved(ForeignConfig):
    guidance_scale: float | None = Field(default=None, validation_alias=GUIDANCE_KEY)
    steps: int | None = Field(default=None, gt=0, validation_alias=STEPS_KEY)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk. Opening reads configs and file headers; weights are mapped when asked for."""

    root: Path
    name: str
    texts: tuple[TextPart, ...]
    unet_layout: UNetLayout
    autoencoder_layout: AutoencoderLayout | TinyAutoencoderLayout
    sampler: SamplerRecord
    time_embedding: TimeEmbeddingRecord
    latent_size: tuple[int, int]
    description: Description
    licence: str
    parts: tuple[PartName, ...]
    # What the scheduler's file asks for that no sampler here does: said at export.
    sampler_replaced: tuple[str, ...] = ()
    # Of the tiny autoencoder that is laid over it for previews.
    preview_layout: TinyAutoencoderLayout | None = None
    # What it names to look at its pictures: opened if that is asked for.
    safety: SafetyCheckerFiles | None = field(default=None, compare=False)
    source: Source = field(default=Source(""), compare=False)
    # What a user must know of how it was read.
    notes: tuple[str, ...] = field(default=(), compare=False)
    laid: Laid = field(default_factory=Laid, repr=False, compare=False)
    controls: Mapping[PartName, ControlNetFiles] = field(default_factory=dict, repr=False, compare=False)
    _files: Mapping[str, StoredWeights] = field(repr=False, compare=False, default_factory=dict)
    _shapes: dict[str, dict[str, tuple[int, ...]]] = field(repr=False, compare=False, default_factory=dict)
    _digests: dict[str, str] = field(repr=False, compare=False, default_factory=dict)

    @classmethod
    def open(
        cls,
        path: Path,
        name: str | None = None,
        files: Mapping[str, StoredWeights] | None = None,
        parts: Sequence[str] | None = None,
    ) -> Checkpoint:
        """Open the directory `path`, or the checkpoint of that name that comes with sfmobile.

        name: what reports call it (the directory's own name by default). files: weights by folder, where they aren't
        in the directory. parts: whose weights are opened now, all of them without it; the others when they are asked
        for.

        Raises `ArtifactError` naming the file that is missing, cut, of a forbidden kind or of an unknown network.
        """
        root = find_checkpoint(Path(path))
        if root.is_file():
            return cls.open_file(root, name=name)
        index = _read_index(root)
        kind = kind_of(root / MODEL_INDEX, index)
        missing = [text.component for text in kind.texts if not (root / text.component).is_dir()]
        if kind.is_xl and missing:
            raise ArtifactError(
                f"{root / missing[0]} is missing: a {index['_class_name']} has two text encoders; copy the checkpoint "
                f"again, or name the class that it was saved by in '_class_name' of {MODEL_INDEX}."
            )
        texts = tuple(
            read_text_part(
                root,
                text,
                penultimate=kind.is_xl,
                pooled=kind.is_xl and text == kind.texts[-1],
            )
            for text in kind.texts
        )
        configs = {folder: read_config(root / folder / "config.json") for folder in ("unet", "vae")}
        unet_file = root / "unet" / "config.json"
        unet = unet_layout(configs["unet"], unet_file)
        added = added_embedding(configs["unet"], unet, unet_file)
        autoencoder = autoencoder_layout(configs["vae"], root / "vae" / "config.json")
        scheduler = read_scheduler_file(root)
        halves = autoencoder_parts(configs["vae"], root / "vae" / "config.json")
        held = (*(text.component for text in texts), UNET, *(part for part in ("decoder", "encoder") if part in halves))
        safety = SafetyCheckerFiles.named(root, index)
        optional = held if safety is None else (*held, SAFETY_CHECKER)
        saved = _saved(root, index, scheduler)
        _check_fit(root, texts, unet, autoencoder, added)
        description = describe(
            root / MODEL_INDEX, index, scheduler, unet, autoencoder.latent_channels, saved, optional, added
        )
        if files is None:
            files = ComponentFiles(root, (FOLDERS[part] for part in held))
            for folder in dict.fromkeys(FOLDERS[part] for part in held if parts is None or part in parts):
                files[folder]
        sampler = read_sampler(root, index)
        return cls(
            root=root,
            name=name or _name_of(root.resolve()),
            texts=texts,
            unet_layout=unet,
            autoencoder_layout=autoencoder,
            sampler=sampler.record,
            time_embedding=time_embedding(configs["unet"], unet, unet_file),
            latent_size=latent_size(configs["unet"], unet_file),
            description=description,
            licence=_licence(root),
            parts=held,
            sampler_replaced=sampler.replaced,
            safety=safety,
            source=Source(str(path)),
            _files=files,
        )

    @classmethod
    def open_file(
        cls,
        path: Path,
        tokenizer: Path | None = None,
        prediction: Prediction | None = None,
        other_autoencoder: tuple[Json, StoredWeights] | None = None,
        name: str | None = None,
        ema: bool = False,
    ) -> Checkpoint:
        """Open a single file of LDM's names. Raises as `open_single_file` does."""
        from sfmobile.checkpoint.single_file import open_single_file

        single = open_single_file(path, tokenizer, prediction, other_autoencoder, ema)
        opened = cls.open(single.folder, name or path.stem, single.files)
        return replace(opened, root=path, source=Source(str(path)), notes=(*opened.notes, *single.notes))

    @property
    def text_encoder_layout(self) -> TextEncoderLayout:
        """Of the (first) text encoder."""
        return self.texts[0].layout

    @property
    def tokenizer_dir(self) -> Path:
        """Of the (first) text encoder."""
        return self.texts[0].tokenizer_dir

    @property
    def tokenizer(self) -> TokenizerConstants:
        """Of the (first) text encoder."""
        return self.texts[0].tokenizer

    def text(self, part: PartName) -> TextPart | None:
        """The text encoder of that name, None if it is another component's."""
        return next((text for text in self.texts if text.component == part), None)

    @property
    def pipeline(self) -> PipelineRecord:
        """What the checkpoint's components together are."""
        return PipelineRecord(
            family=self.description.family,
            task=self.description.task,
            components=self.description.components,
            conditions=self.description.conditions,
            default_steps=self.default_steps,
        )

    @property
    def default_steps(self) -> int:
        """Steps of a picture. Raises `UsageError` if the checkpoint doesn't say and can't be asked."""
        return _known(self, self.description.default_steps)

    @property
    def guidance_scale(self) -> float:
        """Guidance scale of a picture. Raises `UsageError` if the checkpoint doesn't say and can't be asked."""
        return _known(self, self.description.guidance_scale)

    def with_defaults(self, steps: int | None, guidance_scale: float | None) -> Checkpoint:
        """The checkpoint with other defaults of a picture; None keeps its own."""
        own = self.description
        description = replace(
            own,
            default_steps=own.default_steps if steps is None else steps,
            guidance_scale=own.guidance_scale if guidance_scale is None else guidance_scale,
        )
        return replace(self, description=description)

    def with_components(self, names: Iterable[ComponentKey]) -> Checkpoint:
        """The checkpoint with these optional components in its pipeline too.

        Raises `UsageError` for one that it doesn't have.
        """
        own = self.description
        others = set(names) - set(own.components)
        for name in sorted(others - set(own.optional)):
            optional = f", and optional: {', '.join(own.optional)}" if own.optional else ""
            raise UsageError(
                f"'{self.root}' has no component '{name}'; its pipeline's are {', '.join(own.components)}{optional}."
            )
        if not others:
            return self
        parts = tuple(dict.fromkeys((*self.parts, *others)))
        return replace(self, description=own.with_optional(others), parts=parts, _shapes=dict(self._shapes))

    def with_recorded(self, names: Iterable[ComponentKey]) -> Checkpoint:
        """The checkpoint with those of its optional components that a bundle's pipeline has."""
        return self.with_components(name for name in names if name in self.description.optional)

    def with_controls(self, controls: Iterable[ControlNetFiles]) -> Checkpoint:
        """The checkpoint with these ControlNets beside it, and its UNet taking what they give."""
        found = {one.component: one for one in controls}
        own = self.description
        unet = replace(self.unet_layout, takes_residuals=True)
        condition = ResidualsCondition(count=len(unet.residuals()), components=tuple(found))
        return replace(
            self,
            unet_layout=unet,
            controls=found,
            parts=(*self.parts, *found),
            description=replace(
                own,
                components=in_running_order((*own.components, *found)),
                conditions=(*own.conditions, condition),
            ),
            _digests={},
        )

    def layout(
        self, part: PartName
    ) -> (
        TextEncoderLayout
        | UNetLayout
        | AutoencoderLayout
        | TinyAutoencoderLayout
        | ControlNetLayout
        | VisionEncoderLayout
    ):
        """The layout that `part` is built from."""
        if part in self.controls:
            return self.controls[part].layout
        if (text := self.text(part)) is not None:
            return text.layout
        if part == PREVIEW and self.preview_layout is not None:
            return self.preview_layout
        if part == SAFETY_CHECKER and self.safety is not None:
            return self.safety.layout
        return self.unet_layout if part == "unet" else self.autoencoder_layout

    def state_dict(self, part: PartName) -> dict[str, Tensor]:
        """Weights of `part` under our names, in our shapes and their stored dtype, memory-mapped.

        Those that something is laid over, or that an activation scale is in, are float32. Raises `ArtifactError` if a
        weight is missing, unexpected or of another shape than the config says.
        """
        return self._scaled(part, self.laid.over(part, self._stored(part)))

    def _scaled(self, part: PartName, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights as the activation scale of an autoencoder's layout has them; of others as they are."""
        from sfmobile.nets.autoencoder import weight_scale

        layout = self.layout(part)
        if not isinstance(layout, AutoencoderLayout) or layout.activation_scale == 1:
            return weights
        factors = {key: weight_scale(key, layout.activation_scale) for key in weights}
        # In float32: a small float16 would lose digits.
        return {key: weight if factors[key] == 1 else weight.float() * factors[key] for key, weight in weights.items()}

    def shapes(self, part: PartName) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights of `part` under our names, from its layout alone."""
        self._check_part(part)
        if part not in self._shapes:
            self._shapes[part] = {key: tuple(value.shape) for key, value in self._empty(part).state_dict().items()}
        return self._shapes[part]

    def held_shapes(self, part: PartName) -> dict[str, tuple[int, ...]]:
        """The same of all that the files hold: of a text encoder also the layers that don't run."""
        text = self.text(part)
        if text is None:
            return self.shapes(part)
        import torch

        from sfmobile.nets.text_encoder import TextEncoder

        stored = replace(text.stored, vocabulary=text.layout.vocabulary, max_length=text.layout.max_length)
        with torch.device("meta"):
            return {key: tuple(value.shape) for key, value in TextEncoder(stored).state_dict().items()}

    def _stored(self, part: PartName) -> dict[str, Tensor]:
        """The weights as the files hold them, with nothing laid over them."""
        stored = self.laid.stored_shapes(part, self.shapes(part))
        if part in self.controls:
            # diffusers' names are ours, as a UNet's.
            return read_weights("unet", self.controls[part].weights, stored)
        if part == SAFETY_CHECKER and self.safety is not None:
            return self.safety.network(stored)
        text = self.text(part)
        if text is None:
            return read_weights(part, self._files[FOLDERS[part]], stored)
        # Positions behind the last token that the tokenizer gives, and layers that are skipped, are of no use.
        layout = text.layout
        stored[_POSITIONS] = (text.positions, layout.hidden)
        weights = read_weights(part, self._files[FOLDERS[part]], stored, layout.layers)
        return {**weights, _POSITIONS: weights[_POSITIONS][: layout.max_length]}

    def load(self, part: PartName, dtype: torch.dtype | Literal["float32"] | None = "float32") -> nn.Module:
        """`part` in eval mode with its weights as `dtype`.

        With None they keep the stored dtype and stay memory-mapped: a full-size network costs no anonymous memory.
        """
        import torch

        weights = self.state_dict(part)
        if dtype is not None:
            kind = torch.float32 if dtype == "float32" else dtype
            weights = {key: tensor.to(kind) for key, tensor in weights.items()}
        net = self.unfilled(part)
        net.load_state_dict(weights, assign=True)
        return net

    def unfilled(self, part: PartName) -> nn.Module:
        """`part` in eval mode with weights on the meta device, without data; buffers as they are to be."""
        from sfmobile.nets.text_encoder import TextEncoder, causal_mask

        net = self._empty(part)
        if isinstance(net, TextEncoder):
            # The only buffer that isn't stored, still without data from being built on the meta device.
            net.causal_mask = causal_mask(net.layout.max_length)
        return net.eval()

    def sha256(self, part: PartName, advance: Callable[[int], None] | None = None) -> str:
        """Content hash of `part`: its layout, and each weight's name, dtype, shape and bytes.

        Neither sharding nor the file's naming scheme changes it. What is laid over the weights counts by its files'
        hashes, since a merged sum differs from machine to machine in its last bits. `advance` is told the bytes hashed.
        """
        import torch

        if part not in self._digests:
            layout = _as_recorded(asdict(self.layout(part)))
            layout.pop("name", None)
            digest = hashlib.sha256(json.dumps(layout, sort_keys=True).encode())
            for key, tensor in sorted(self._stored(part).items()):
                digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                content = tensor.reshape(-1).view(torch.uint8).numpy().data
                digest.update(content)
                if advance is not None:
                    advance(content.nbytes)
            for mark in self.laid.marks(part):
                digest.update(f"{mark}\n".encode())
            self._digests[part] = digest.hexdigest()
        return self._digests[part]

    def parameters(self, part: PartName) -> int:
        """Number of weights of `part`."""
        return sum(math.prod(shape) for shape in self.shapes(part).values())

    def with_clip_skip(self, layers: int) -> Checkpoint:
        """The checkpoint without the last `layers` of its text encoders, the final norm behind what is left if it has
        one.

        Raises `UsageError` if no layer would be left.
        """
        if layers == self.texts[0].skipped:
            return self
        texts = tuple(text.with_clip_skip(layers) for text in self.texts)
        conditions = tuple(
            one.model_copy(update={"skipped_layers": layers}) if isinstance(one, TextCondition) else one
            for one in self.description.conditions
        )
        return replace(
            self,
            texts=texts,
            description=replace(self.description, conditions=conditions),
            _shapes={},
            _digests={},
        )

    def with_prompt_chunks(self, chunks: int) -> Checkpoint:
        """The checkpoint whose UNet reads so many runs of the text encoder's tokens side by side."""
        conditions = tuple(
            one.model_copy(update={"chunks": chunks}) if isinstance(one, TextCondition) else one
            for one in self.description.conditions
        )
        if conditions == self.description.conditions:
            return self
        return replace(self, description=replace(self.description, conditions=conditions))

    def _check_part(self, part: PartName) -> None:
        if part not in self.parts:
            raise ArtifactError(
                f"{self.root} holds no {part} (its parts: {', '.join(self.parts)}); use a checkpoint that has one."
            )

    def _empty(self, part: PartName) -> nn.Module:
        """The network without memory for its weights."""
        import torch

        from sfmobile.nets.autoencoder import Decoder, Encoder
        from sfmobile.nets.controlnet import ControlNet
        from sfmobile.nets.text_encoder import TextEncoder
        from sfmobile.nets.tiny_autoencoder import TinyDecoder
        from sfmobile.nets.unet import ConditionedUNet, UNet
        from sfmobile.nets.vision_encoder import VisionEncoder

        with torch.device("meta"):
            if (text := self.text(part)) is not None:
                return TextEncoder(text.layout)
            if part in self.controls:
                return ControlNet(self.controls[part].layout)
            if part == "unet":
                layout = self.unet_layout
                conditioned = layout.takes_residuals or layout.added_embedding_dim is not None
                return (ConditionedUNet if conditioned else UNet)(layout)
            if part == PREVIEW and self.preview_layout is not None:
                return TinyDecoder(self.preview_layout)
            if part == SAFETY_CHECKER and self.safety is not None:
                return VisionEncoder(self.safety.layout)
            if isinstance(self.autoencoder_layout, TinyAutoencoderLayout):
                return TinyDecoder(self.autoencoder_layout)
            return (Decoder if part == "decoder" else Encoder)(self.autoencoder_layout)


def _name_of(root: Path) -> str:
    """What reports call a checkpoint: the directory's name, or the model's of a snapshot in the Hub's cache."""
    if root.parent.name == "snapshots" and root.parent.parent.name.startswith("models--"):
        return root.parent.parent.name.removeprefix("models--").replace("--", "/")
    return root.name


def _read_index(root: Path) -> Json:
    if not root.exists():
        raise ArtifactError(f"{root} doesn't exist; expected a diffusers-format directory.")
    if not (root / MODEL_INDEX).is_file():
        names = sorted(path.relative_to(root).as_posix() for path in (*root.glob("*"), *root.glob("snapshots/*")))
        raise ArtifactError(no_pipeline(str(root), names))
    index = read_config(root / MODEL_INDEX)
    refuse_pipeline(root / MODEL_INDEX, index.get("_class_name"))
    return index


def _saved(root: Path, index: Json, scheduler: Json) -> tuple[int | None, float | None]:
    """Default steps and guidance scale that sfmobile wrote; it used to write the steps into the scheduler's file."""
    saved = parse(_Saved, index, root / MODEL_INDEX)
    older = parse(_Saved, scheduler, root / SCHEDULER_FILE)
    return saved.steps or older.steps, saved.guidance_scale


def _known(checkpoint: Checkpoint, value: Default | None) -> Default:
    if value is None:
        raise UsageError(
            f"'{checkpoint.root}' is a model of few steps by its scheduler's file, and none of its files says of how "
            "many and at which guidance scale; give both: --default-steps and --default-guidance at export "
            "(SD-Turbo: 1 and 0; SDXL-Lightning: the steps in its file's name and 0), --steps and --guidance elsewhere."
        )
    return value


def _check_fit(
    root: Path,
    texts: Sequence[TextPart],
    unet: UNetLayout,
    autoencoder: AutoencoderLayout | TinyAutoencoderLayout,
    added: tuple[int, int] | None,
) -> None:
    """The components must belong together: what one gives, the next takes."""
    file = root / "unet" / "config.json"
    hidden = sum(text.layout.hidden for text in texts)
    if hidden != unet.cross_attention_dim:
        encoders = "the text encoder gives" if len(texts) == 1 else f"{len(texts)} text encoders give"
        raise ArtifactError(
            f"{file}: 'cross_attention_dim' is {unet.cross_attention_dim} and {encoders} {hidden} "
            "channels; they are not of one model."
        )
    lengths = {text.layout.max_length for text in texts}
    if len(lengths) > 1:
        raise ArtifactError(
            f"{root}: its tokenizers give {' and '.join(map(str, sorted(lengths)))} tokens ('model_max_length'); "
            "states of so many can't be joined: they are not of one model."
        )
    projection = texts[-1].layout.projection
    if added is not None and added[0] != projection:
        raise ArtifactError(
            f"{file}: 'projection_class_embeddings_input_dim' leaves {added[0]} channels for the pooled text and the "
            f"text encoder gives {projection} ('projection_dim'); they are not of one model."
        )
    if unet.out_channels != autoencoder.latent_channels:
        raise ArtifactError(
            f"{file}: 'out_channels' is {unet.out_channels} and the autoencoder's latents have "
            f"{autoencoder.latent_channels} channels; they are not of one model."
        )


# What layouts hold since bundles were first written, and what each is where nothing is said of it.
_NEWER_KEYS: Json = {
    "takes_residuals": False,
    "added_embedding_dim": None,
    "depths": (),
    "state_layers": None,
    "final_norm": True,
    "projection": None,
    "end_token": None,
    "activation_scale": 1.0,
}


def _as_recorded(layout: Any) -> Any:
    """A layout's values without the newer ones that say nothing, so that older bundles' hashes still hold."""
    if isinstance(layout, dict):
        said = {key: value for key, value in layout.items() if key not in _NEWER_KEYS or value != _NEWER_KEYS[key]}
        return {key: _as_recorded(value) for key, value in said.items()}
    return tuple(map(_as_recorded, layout)) if isinstance(layout, tuple) else layout


def _licence(root: Path) -> str:
    """The licence in the model card's front matter, or empty."""
    card = root / "README.md"
    if not card.is_file():
        return ""
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return ""
    for line in lines[1:]:
        key, _, value = line.partition(":")
        if line.strip() == "---":
            break
        if key.strip() in ("license", "licence"):
            return value.strip().strip("'\"")
    return ""
