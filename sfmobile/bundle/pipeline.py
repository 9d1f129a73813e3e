"""A pipeline as records: its family and task, what runs when, and what steers the UNet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator
from typing_extensions import Self

from sfmobile.bundle.choices import Family, Task
from sfmobile.files import StrictModel

# A component's or a tokenizer's name, which also names files.
ComponentKey = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]


class TextCondition(StrictModel):
    """The prompt's hidden states: tokens of `tokenizer` through the text encoder `component`, the UNet's `input`.

    Where several have one input, their states are joined, the channels of the first before those of the second.
    skipped_layers: of the encoder's last ones, left out at export ("clip skip"). chunks: how many runs of the encoder's
    tokens stand side by side in the input.
    """

    kind: Literal["text"] = "text"
    input: str = "encoder_hidden_states"
    component: ComponentKey = "text_encoder"
    tokenizer: ComponentKey = "tokenizer"
    skipped_layers: int = Field(default=0, ge=0)
    chunks: int = Field(default=1, ge=1)


class GuidanceEmbeddingCondition(StrictModel):
    """The guidance scale as an input of a UNet that was distilled with it (arXiv 2310.04378, section 4.3).

    The host computes a sinusoid of `dimension` values, sines first, of 1000 times (scale - 1). Such a UNet is called
    once a step, with the prompt alone.
    """

    kind: Literal["guidance_embedding"] = "guidance_embedding"
    input: str = "guidance_embedding"
    dimension: int = Field(gt=0)


# What a UNet may take behind the noisy latents: a mask and the latents of the picture without what it covers
# (1 + 4 channels), the latents of a picture, a depth map.
Content = Literal["mask_and_masked_picture", "picture", "depth"]


class ConcatenatedCondition(StrictModel):
    """Further channels of the UNet's `input`, behind the noisy latents and of their height and width."""

    kind: Literal["concatenated"] = "concatenated"
    input: str = "latents"
    content: Content
    channels: int = Field(gt=0)


class ResidualsCondition(StrictModel):
    """What ControlNets add to the UNet's skip connections and, last, to its middle (arXiv 2302.05543).

    The UNet's inputs, and the ControlNets' outputs, are `input`_0 to `input`_(`count` - 1). components: the ControlNets
    of the bundle, which take what the UNet takes and a `picture` in 0 to 1; the host adds up what they give, each times
    its scale, and gives zeros without a picture.
    """

    kind: Literal["residuals"] = "residuals"
    input: str = "residual"
    count: int = Field(gt=0)
    components: tuple[ComponentKey, ...] = Field(min_length=1)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs' names, in order."""
        return tuple(f"{self.input}_{index}" for index in range(self.count))


class AddedEmbeddingCondition(StrictModel):
    """What Stable Diffusion XL adds to the time embedding (arXiv 2307.01952, section 2.2): the UNet's `input`.

    The pooled output of the text encoder `component`, `pooled` channels, and behind it a sinusoid, of `dimension`
    values and otherwise as the time embedding's, of each of six numbers: the original picture's height and width, the
    top and left of the crop, the target's height and width. zeros_without_negative: whether zeros stand for the states
    and the pooled output of a negative prompt that is empty.
    """

    kind: Literal["added_embedding"] = "added_embedding"
    input: str = "added_embedding"
    component: ComponentKey
    output: str = "pooled"
    pooled: int = Field(gt=0)
    dimension: int = Field(gt=0)
    zeros_without_negative: bool = False


ConditionRecord: TypeAlias = Annotated[
    TextCondition | GuidanceEmbeddingCondition | ConcatenatedCondition | ResidualsCondition | AddedEmbeddingCondition,
    Field(discriminator="kind"),
]


class PipelineRecord(StrictModel):
    """What the components together are.

    components: all that the task takes and the optional ones that were asked for, in the order they run; a bundle may
    hold fewer. conditions: what a call of the UNet takes beside latents and time. default_steps: of a picture, if
    nobody asks for others.
    """

    family: Family
    task: Task
    components: tuple[ComponentKey, ...]
    conditions: tuple[ConditionRecord, ...]
    default_steps: int = Field(gt=0)

    @model_validator(mode="after")
    def _inputs_differ(self) -> Self:
        inputs = [condition.input for condition in self.conditions if not isinstance(condition, TextCondition)]
        inputs += {text.input for text in self.texts}
        if len(set(inputs)) != len(inputs):
            raise ValueError(f"conditions of one input: {', '.join(inputs)}")
        if len(set(self.components)) != len(self.components):
            raise ValueError(f"a component stands twice: {', '.join(self.components)}")
        if not any(self.texts):
            raise ValueError("no condition is of text")
        for text in self.texts:
            if text.component not in self.components:
                raise ValueError(f"a condition is of '{text.component}', which is no component of the pipeline")
        chunks = {text.chunks for text in self.texts}
        if len({text.component for text in self.texts}) != len([*self.texts]) or len(chunks) != 1:
            raise ValueError("conditions of text must be of different components and of as many chunks each")
        if self.added is not None and self.added.component not in self.text_encoders:
            raise ValueError(f"what is added is of '{self.added.component}', which reads no prompt")
        for name in () if self.residuals is None else self.residuals.components:
            if name not in self.components:
                raise ValueError(f"a condition is of '{name}', which is no component of the pipeline")
        return self

    @property
    def takes_guidance(self) -> bool:
        """Whether the UNet takes the guidance scale as an input: it is called once a step, with the prompt alone."""
        return any(isinstance(condition, GuidanceEmbeddingCondition) for condition in self.conditions)

    @property
    def residuals(self) -> ResidualsCondition | None:
        """The condition of ControlNets, if the UNet takes what they give."""
        return next((one for one in self.conditions if isinstance(one, ResidualsCondition)), None)

    @property
    def added(self) -> AddedEmbeddingCondition | None:
        """The embedding that is added to the time's, if the UNet takes one."""
        return next((one for one in self.conditions if isinstance(one, AddedEmbeddingCondition)), None)

    @property
    def text(self) -> TextCondition:
        """The first condition of text."""
        return next(self.texts)

    @property
    def texts(self) -> Iterator[TextCondition]:
        """All conditions of text."""
        return (condition for condition in self.conditions if isinstance(condition, TextCondition))

    @property
    def text_encoders(self) -> tuple[ComponentKey, ...]:
        """The components that read a prompt."""
        return tuple(dict.fromkeys(text.component for text in self.texts))

    @property
    def unet(self) -> ComponentKey:
        """The component whose output the sampler walks down, whatever else is called at every step."""
        return UNET

    @property
    def decoder(self) -> ComponentKey:
        """The component that makes the picture of the last latents."""
        return DECODER

    @property
    def encoder(self) -> ComponentKey:
        """The component that gives the latents of a picture, where a bundle holds it."""
        return ENCODER

    @property
    def safety_checker(self) -> ComponentKey:
        """The component that looks at each picture before it is shown, where a bundle holds it."""
        return SAFETY_CHECKER

    @property
    def preview(self) -> ComponentKey:
        """The small decoder of what a step predicts, where a bundle holds it."""
        return PREVIEW


# The two that every pipeline has, by the names that both languages know. What else there is, a pipeline says, and what
# it is for, its conditions; when each runs, the components' records.
UNET: ComponentKey = "unet"
DECODER: ComponentKey = "decoder"
# And the one that a picture is read by, where a bundle holds it.
ENCODER: ComponentKey = "encoder"
# And the small decoder that shows what a step predicts, where a bundle holds one.
PREVIEW: ComponentKey = "preview"
# And the one that looks at each picture before it is shown, where a bundle holds one.
SAFETY_CHECKER: ComponentKey = "safety_checker"
TEXT_TO_IMAGE: tuple[ComponentKey, ...] = ("text_encoder", UNET, DECODER)
# Every component that a pipeline may have, in the order they run; ControlNets, whatever their names, before the UNet.
RUNNING_ORDER: tuple[ComponentKey, ...] = (
    "text_encoder",
    "text_encoder_2",
    ENCODER,
    UNET,
    PREVIEW,
    DECODER,
    SAFETY_CHECKER,
)


def in_running_order(components: Iterable[ComponentKey]) -> tuple[ComponentKey, ...]:
    """`components` in the order they run, each once."""
    wanted = set(components)
    others = sorted(wanted - set(RUNNING_ORDER))
    before = [name for name in RUNNING_ORDER[: RUNNING_ORDER.index(UNET)] if name in wanted]
    return (*before, *others, *(name for name in RUNNING_ORDER[RUNNING_ORDER.index(UNET) :] if name in wanted))
