"""What a checkpoint is: family, task, components and conditions, from the class of `model_index.json` and the configs.

The class decides the task, never a guess from shapes: the same weights stand behind text-to-image and image-to-image
pipelines, and a ControlNet's folder holds a whole Stable Diffusion beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sfmobile.bundle.choices import Family, Task
from sfmobile.bundle.pipeline import (
    DECODER,
    SAFETY_CHECKER,
    UNET,
    AddedEmbeddingCondition,
    ComponentKey,
    ConcatenatedCondition,
    ConditionRecord,
    Content,
    GuidanceEmbeddingCondition,
    TextCondition,
    in_running_order,
)
from sfmobile.checkpoint.config import AUTOENCODER_CLASS, TINY_AUTOENCODER_CLASS, UNET_CLASS, Json, read_config
from sfmobile.checkpoint.safety_checker import SAFETY_CHECKER_CLASS
from sfmobile.errors import ArtifactError
from sfmobile.nets.layout import UNetLayout

# What diffusers' README takes where a checkpoint names nothing, in our fewer steps.
DEFAULT_STEPS = 8
DEFAULT_GUIDANCE_SCALE = 7.5


@dataclass(frozen=True)
class Kind:
    """What a class of diffusers' pipelines says of a checkpoint.

    content: what its UNet takes behind the latents, in so many channels. needs: components that its task can't do
    without, beside those of text-to-image. texts: its text encoders with their tokenizers.
    """

    family: Family = "stable-diffusion"
    task: Task = "text-to-image"
    content: Content | None = None
    channels: int = 0
    needs: tuple[ComponentKey, ...] = ()
    steps: int | None = None
    guidance_scale: float | None = None
    texts: tuple[TextCondition, ...] = (TextCondition(),)

    @property
    def is_xl(self) -> bool:
        """Whether the UNet reads two text encoders' states before their last layers, and is given pooled text and
        sizes."""
        return len(self.texts) > 1


_LATENT_CONSISTENCY = Kind("latent-consistency", steps=4, guidance_scale=8.5)
# Of diffusers' pipelines of Stable Diffusion XL: twenty steps of Euler, of which theirs takes fifty.
_XL = Kind(
    "stable-diffusion-xl",
    steps=20,
    guidance_scale=5.0,
    texts=(TextCondition(), TextCondition(component="text_encoder_2", tokenizer="tokenizer_2")),
)
PIPELINES = {
    "StableDiffusionPipeline": Kind(),
    # Ours, where a layout is none that diffusers has.
    "SfmobilePipeline": Kind(),
    "StableDiffusionImg2ImgPipeline": Kind(),
    "StableDiffusionInpaintPipeline": Kind(
        task="inpainting", content="mask_and_masked_picture", channels=5, needs=("encoder",)
    ),
    "StableDiffusionInstructPix2PixPipeline": Kind(
        task="instructed-editing", content="picture", channels=4, needs=("encoder",)
    ),
    "StableDiffusionDepth2ImgPipeline": Kind(task="depth-to-image", content="depth", channels=1),
    "LatentConsistencyModelPipeline": _LATENT_CONSISTENCY,
    "LatentConsistencyModelImg2ImgPipeline": _LATENT_CONSISTENCY,
    "StableDiffusionXLPipeline": _XL,
    "StableDiffusionXLImg2ImgPipeline": _XL,
    "StableDiffusionXLInpaintPipeline": replace(
        _XL, task="inpainting", content="mask_and_masked_picture", channels=5, needs=("encoder",)
    ),
}
# Classes that hold the weights of a text-to-image pipeline and start from a picture.
_FROM_A_PICTURE = frozenset(
    {"StableDiffusionImg2ImgPipeline", "LatentConsistencyModelImg2ImgPipeline", "StableDiffusionXLImg2ImgPipeline"}
)
# What a bundle may have beside what its task needs, if the checkpoint holds it and it is asked for: what it is for.
OPTIONAL: dict[ComponentKey, str] = {
    "encoder": "to start from a picture, or to repaint a part of one",
    SAFETY_CHECKER: "to look at each picture before it is shown, as diffusers does",
}
_UNCHECKED = (
    f"the safety checker ({SAFETY_CHECKER_CLASS}) is left out: the bundle shows whatever it draws, where diffusers "
    "blackens what that flags; --with safety_checker adds it"
)
# Schedulers that only distilled models, of one step to eight, are published with.
_FEW_STEP_SCHEDULERS = frozenset({"LCMScheduler", "TCDScheduler"})
# Classes that modules may be of; sfmobile's own write layouts that diffusers doesn't have.
_CLASSES = {
    "unet": ("UNet2DConditionModel", UNET_CLASS),
    "vae": ("AutoencoderKL", TINY_AUTOENCODER_CLASS, AUTOENCODER_CLASS),
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
# Of Stable Diffusion XL; the pooled text is the first's if that projects too.
_XL_CLASSES = {
    **_CLASSES,
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
# Steps and guidance of SDXL-Turbo, the one model of its family that is published with ancestral steps, trailing.
_XL_TURBO = (1, 0.0)
# Modules that a bundle has or needs none of.
_USED_MODULES = frozenset({"text_encoder", "tokenizer", "unet", "vae", "scheduler", "feature_extractor"})


@dataclass(frozen=True)
class Description:
    """What the components of a checkpoint together are.

    components: what the task needs. optional: what the checkpoint could have beside them, see `OPTIONAL`.
    default_steps, guidance_scale: of a picture; None where the model is distilled and no file says for what, so that
    whoever exports must. notes: one sentence for everything that the checkpoint holds and a bundle doesn't use.
    missed: one for an optional component without which a bundle does other than diffusers.
    """

    pipeline_class: str
    family: Family
    task: Task
    components: tuple[ComponentKey, ...]
    conditions: tuple[ConditionRecord, ...]
    default_steps: int | None
    guidance_scale: float | None
    notes: tuple[str, ...]
    optional: tuple[ComponentKey, ...] = ()
    missed: Mapping[ComponentKey, str] = field(default_factory=dict, hash=False)

    def with_optional(self, names: Iterable[ComponentKey]) -> Description:
        """With these of the optional components in the pipeline."""
        wanted = set(names)
        return replace(
            self,
            components=in_running_order((*self.components, *wanted)),
            missed={name: note for name, note in self.missed.items() if name not in wanted},
        )


def kind_of(file: Path, index: Json) -> Kind:
    """What the class of `model_index.json`, in `file`, says. Raises `ArtifactError` for one that sfmobile doesn't know,
    and for Stable Diffusion XL's refiner, which is of a known one."""
    name = index.get("_class_name")
    kind = PIPELINES.get(name) if isinstance(name, str) else None
    if not isinstance(name, str) or kind is None:
        raise ArtifactError(_unknown(file, name))
    if kind.is_xl and (index.get("requires_aesthetics_score") or index.get("text_encoder") == [None, None]):
        raise ArtifactError(
            f"{file}: this is the refiner of Stable Diffusion XL ({name}, with an aesthetic score or without the first "
            "text encoder), which goes over the last steps of a picture of the base and which sfmobile can't run; "
            "export the base model, which draws whole pictures by itself."
        )
    return kind


def describe(
    file: Path,
    index: Json,
    scheduler: Json,
    unet: UNetLayout,
    latent_channels: int,
    saved: tuple[int | None, float | None],
    parts: tuple[str, ...],
    added: tuple[int, int] | None = None,
) -> Description:
    """The description of a checkpoint whose `model_index.json`, in `file`, is `index`.

    scheduler: its scheduler's config. saved: default steps and guidance scale that sfmobile wrote into it, or None.
    parts: the networks that it holds. added: of the UNet's added embedding, see `config.added_embedding`.
    Raises `ArtifactError` for a class that sfmobile doesn't know and for a UNet that isn't of the class.
    """
    kind = kind_of(file, index)
    name: str = index["_class_name"]
    _check_classes(file, index, _XL_CLASSES if kind.is_xl else _CLASSES)
    if kind.is_xl != (added is not None):
        takes, found, other = (
            ("pooled text and sizes", "null", "StableDiffusionPipeline")
            if kind.is_xl
            else ("no added embedding", "'text_time'", "StableDiffusionXLPipeline")
        )
        raise ArtifactError(
            f"{file}: the UNet of a {name} takes {takes} and this one's 'addition_embed_type' is {found}; name the "
            f"class that it was trained for in '_class_name', such as {other}."
        )
    task, content, needs = kind.task, kind.content, kind.needs
    extra = unet.in_channels - latent_channels
    notes: list[str] = []
    if task == "inpainting" and extra == 0:
        # diffusers repaints with a UNet of plain Stable Diffusion too, by putting the known latents back at each step.
        task, content, needs = "text-to-image", None, ()
        notes.append(
            f"{name} with a UNet of {unet.in_channels} channels is exported as text-to-image; with the encoder "
            "(--with encoder) it repaints what a mask covers too"
        )
    elif extra != kind.channels:
        raise ArtifactError(
            f"{file}: the UNet of a {name} takes {latent_channels + kind.channels} channels and this one's "
            f"'in_channels' is {unet.in_channels}; name the class that it was trained for in '_class_name'"
            f"{_that_takes(extra, kind.is_xl)}."
        )
    if name in _FROM_A_PICTURE:
        notes.append(f"{name} begins with a picture; the bundle draws from text alone unless it has --with encoder")
    notes += _left_out(index, _USED_MODULES.union(*({text.component, text.tokenizer} for text in kind.texts)))
    conditions: list[ConditionRecord] = [*kind.texts]
    if unet.guidance_embedding_dim is not None:
        conditions.append(GuidanceEmbeddingCondition(dimension=unet.guidance_embedding_dim))
    if added is not None:
        pooled, dimension = added
        conditions.append(
            AddedEmbeddingCondition(
                component=kind.texts[-1].component,
                pooled=pooled,
                dimension=dimension,
                # diffusers' pipelines do where their file doesn't say.
                zeros_without_negative=index.get("force_zeros_for_empty_prompt", True) is True,
            )
        )
    if content is not None:
        conditions.append(ConcatenatedCondition(content=content, channels=extra))
    steps, scale = saved
    known = not _is_few_step(scheduler)
    turbo = not known and kind.is_xl and scheduler.get("_class_name") == "EulerAncestralDiscreteScheduler"
    if turbo:
        kind, known = replace(kind, steps=_XL_TURBO[0], guidance_scale=_XL_TURBO[1]), True
    elif not known and kind.is_xl:
        kind = replace(kind, steps=None, guidance_scale=None)
    return Description(
        pipeline_class=name,
        family=kind.family,
        task=task,
        components=in_running_order((*(text.component for text in kind.texts), UNET, DECODER, *needs)),
        conditions=tuple(conditions),
        default_steps=steps or kind.steps or (DEFAULT_STEPS if known else None),
        guidance_scale=_first(scale, kind.guidance_scale, DEFAULT_GUIDANCE_SCALE if known else None),
        notes=tuple(notes),
        optional=tuple(part for part in OPTIONAL if part in parts and part not in needs),
        missed={SAFETY_CHECKER: _UNCHECKED} if SAFETY_CHECKER in parts else {},
    )


def _check_classes(file: Path, index: Json, expected: Mapping[str, tuple[str, ...]]) -> None:
    """Raise `ArtifactError` for a module that diffusers would read as something else than it is read as here."""
    for module, classes in expected.items():
        value = index.get(module)
        if not isinstance(value, list):
            continue
        name = value[-1] if value else None
        config = file.parent / module / "config.json"
        written = read_config(config).get("_class_name", name) if config.is_file() else name
        if name not in classes or written != name:
            found = f" and {config} is of a {written}" if written != name else ""
            raise ArtifactError(
                f"{file}: '{module}' is {f'a {name}' if name else 'none'}{found}; expected {' or '.join(classes)}"
                f"{' in both' if found else ''}, which is what sfmobile reads it as: name that if it is meant."
            )


def _is_few_step(scheduler: Json) -> bool:
    """Whether the scheduler's file is one of distilled models; SD-Turbo's is Euler's, with trailing steps."""
    name = scheduler.get("_class_name")
    if isinstance(name, str) and name in _FEW_STEP_SCHEDULERS:
        return True
    euler = isinstance(name, str) and name.startswith("Euler")
    return euler and scheduler.get("timestep_spacing") == "trailing" and not scheduler.get("rescale_betas_zero_snr")


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _left_out(index: Json, used: frozenset[str]) -> list[str]:
    """Modules that the checkpoint names and a bundle has no use for, which has one for those that are `used`."""
    notes = []
    for module, value in sorted(index.items()):
        if module.startswith("_") or module in used or not isinstance(value, list) or not any(value):
            continue
        name = value[-1] if isinstance(value[-1], str) else module
        if module != SAFETY_CHECKER:
            notes.append(f"'{module}' ({name}) is left out: the bundle has no use for it")
        elif name != SAFETY_CHECKER_CLASS:
            notes.append(f"the safety checker ({name}) is left out: a bundle shows whatever it draws")
    return notes


def _that_takes(extra: int, is_xl: bool) -> str:
    found = [
        name
        for name, kind in PIPELINES.items()
        if kind.channels == extra and kind.is_xl == is_xl and name != "SfmobilePipeline"
    ]
    return f", such as {found[0]}" if found else ""


def _unknown(file: Path, name: object) -> str:
    if not isinstance(name, str):
        return (
            f"{file} names no pipeline class ('_class_name' is {name!r}); expected one of {', '.join(PIPELINES)}: what "
            "a checkpoint is for is never guessed."
        )
    if name.startswith("StableDiffusionXL"):
        known = ", ".join(one for one, kind in PIPELINES.items() if kind.is_xl)
        return f"{file}: a {name} is none of the pipelines of Stable Diffusion XL that sfmobile has; expected {known}."
    if "ControlNet" in name or "Adapter" in name:
        return (
            f"{file}: a {name} draws what a control picture says, which sfmobile can't do yet; for pictures from text "
            "alone, name StableDiffusionPipeline in '_class_name': the other folders' weights are that pipeline's."
        )
    return f"{file}: a {name} is no pipeline that sfmobile has; expected one of {', '.join(PIPELINES)}."
