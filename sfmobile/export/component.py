"""One spec per component: everything the exporter needs to know of it, so that the exporter is one loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from sfmobile.bundle.choices import Runs
from sfmobile.bundle.manifest import ComponentName, TensorRecord
from sfmobile.bundle.pipeline import ConcatenatedCondition, GuidanceEmbeddingCondition
from sfmobile.checkpoint.source import CONTROL_PREFIX
from sfmobile.errors import UsageError
from sfmobile.export.options import FIXED, SIZED, ExportOptions, Variation
from sfmobile.nets.layout import AutoencoderLayout, TextEncoderLayout, TinyAutoencoderLayout

if TYPE_CHECKING:
    from sfmobile.bundle.manifest import Manifest
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.checkpoint.safety_checker import SafetyCheckerFiles

# A phone's memory ends long before; beyond this a size is a slip of the keyboard.
LARGEST_LATENT_SIDE = 512
# Latents so many times as large as a checkpoint's own on a side were meant as pixels.
SLIP = 4
# The function that runs unless another is asked for.
MAIN = "main"


@dataclass(frozen=True)
class Setting:
    """What shapes depend on: the checkpoint's layouts, the latent size (height, width), and the UNet's batch."""

    checkpoint: Checkpoint
    latent_size: tuple[int, int]
    guidance_batch: int


@dataclass(frozen=True)
class ComponentSpec:
    """All that exporting one component needs. The network's forward takes the inputs in order.

    runs: when it is called. package: file name without suffix. description: what the package says of itself.
    inputs, outputs: names, shapes, dtypes as stored (float16, int32) and descriptions. variation: which options change
    its package.
    """

    name: ComponentName
    runs: Runs
    package: str
    description: str
    inputs: Callable[[Setting], tuple[TensorRecord, ...]]
    outputs: Callable[[Setting], tuple[TensorRecord, ...]]
    variation: Variation = SIZED


def _float16(name: str, shape: tuple[int, ...], description: str) -> TensorRecord:
    return TensorRecord(name=name, shape=shape, dtype="float16", description=description)


def _context(setting: Setting, batch: int) -> TensorRecord:
    """What the UNet takes of all text encoders."""
    checkpoint = setting.checkpoint
    order = ", unconditional first, then conditional" if batch == 2 else ""
    joined = "" if len(checkpoint.texts) == 1 else f", of {len(checkpoint.texts)} text encoders' channels"
    return _states(
        batch,
        sum(text.layout.hidden for text in checkpoint.texts),
        checkpoint.pipeline.text.chunks * checkpoint.text_encoder_layout.max_length,
        f"Text embedding: (batch, channels, 1, tokens){joined}{order}.",
    )


def _states(batch: int, channels: int, tokens: int, description: str) -> TensorRecord:
    return _float16("encoder_hidden_states", (batch, channels, 1, tokens), description)


def _latents(setting: Setting, batch: int, channels: int, description: str) -> TensorRecord:
    return _float16("latents", (batch, channels, *setting.latent_size), description)


def _text_encoder_inputs(name: ComponentName, setting: Setting) -> tuple[TensorRecord, ...]:
    length = _text(name, setting).max_length
    return (
        TensorRecord(
            name="input_ids",
            shape=(1, length),
            dtype="int32",
            description="Token ids of CLIP's byte-pair tokenizer, with start and end tokens, padded.",
        ),
    )


def _text_encoder_outputs(name: ComponentName, setting: Setting) -> tuple[TensorRecord, ...]:
    layout, added = _text(name, setting), setting.checkpoint.pipeline.added
    states = _states(1, layout.hidden, layout.max_length, "Text embedding: (batch, channels, 1, tokens).")
    if added is None or added.component != name:
        return (states,)
    pooled = "State of the end of the text, projected: (batch, channels, 1, 1)."
    return (states, _float16(added.output, (1, added.pooled, 1, 1), pooled))


def _text(name: ComponentName, setting: Setting) -> TextEncoderLayout:
    text = setting.checkpoint.text(name)
    assert text is not None  # a text encoder's spec
    return text.layout


def _text_encoder_spec(name: ComponentName, package: str) -> ComponentSpec:
    return ComponentSpec(
        name=name,
        runs="per_prompt",
        package=package,
        description="CLIP text encoder: token ids to text embedding.",
        inputs=partial(_text_encoder_inputs, name),
        outputs=partial(_text_encoder_outputs, name),
        variation=FIXED,
    )


def _unet_inputs(setting: Setting) -> tuple[TensorRecord, ...]:
    batch = setting.guidance_batch
    dimension = setting.checkpoint.time_embedding.dimension
    order = ": the same latents twice" if batch == 2 else ""
    inputs = [
        _latents(
            setting,
            batch,
            setting.checkpoint.unet_layout.in_channels,
            f"Noisy latents{_behind_the_latents(setting)} (batch, channels, height, width){order}.",
        ),
        _float16(
            "time_embedding",
            (batch, dimension, 1, 1),
            "Sinusoid of the timestep, computed by the host in full precision: (batch, channels, 1, 1).",
        ),
        _context(setting, batch),
    ]
    inputs += [
        _float16(
            condition.input,
            (batch, condition.dimension, 1, 1),
            "Sinusoid of the guidance scale, computed by the host in full precision: (batch, channels, 1, 1).",
        )
        for condition in setting.checkpoint.description.conditions
        if isinstance(condition, GuidanceEmbeddingCondition)
    ]
    if (added := setting.checkpoint.pipeline.added) is not None:
        total = setting.checkpoint.unet_layout.added_embedding_dim
        assert total is not None  # the condition is of it
        inputs.append(
            _float16(
                added.input,
                (batch, total, 1, 1),
                f"{added.pooled} channels of pooled text, and behind them the sinusoids of six sizes, computed by the "
                "host in full precision: (batch, channels, 1, 1).",
            )
        )
    return (*inputs, *_residuals(setting))


def _residuals(setting: Setting) -> tuple[TensorRecord, ...]:
    """What ControlNets give and a UNet takes of them: nothing, if there are none."""
    condition = setting.checkpoint.pipeline.residuals
    if condition is None:
        return ()
    height, width = setting.latent_size
    places = setting.checkpoint.unet_layout.residuals()
    return tuple(
        _float16(
            name,
            (setting.guidance_batch, channels, height >> level, width >> level),
            "What ControlNets add to the UNet's middle."
            if index == len(places) - 1
            else f"What ControlNets add to skip connection {index}.",
        )
        for index, (name, (channels, level)) in enumerate(zip(condition.inputs, places, strict=True))
    )


def _control_inputs(setting: Setting) -> tuple[TensorRecord, ...]:
    """As the UNet's, but for what it takes of ControlNets, and the picture."""
    factor = setting.checkpoint.autoencoder_layout.downsampling
    height, width = setting.latent_size
    taken = {record.name: record for record in _unet_inputs(setting)}
    picture = _float16(
        "picture", (1, 3, factor * height, factor * width), "Control picture (1, 3, height, width), 0 black to 1 white."
    )
    return (taken["latents"], taken["time_embedding"], taken["encoder_hidden_states"], picture)


def _control_spec(name: ComponentName) -> ComponentSpec:
    title = name.removeprefix(CONTROL_PREFIX)
    return ComponentSpec(
        name=name,
        runs="per_step",
        package=f"Control_{title}",
        description=f"ControlNet '{title}': a picture to what the UNet adds to its skip connections.",
        inputs=_control_inputs,
        outputs=_residuals,
        variation=Variation(sized=True, batched=True),
    )


def _behind_the_latents(setting: Setting) -> str:
    """What the UNet's further channels hold, in words."""
    words = {"mask_and_masked_picture": "a mask and the masked picture's latents", "picture": "a picture's latents"}
    contents = [
        condition.content
        for condition in setting.checkpoint.description.conditions
        if isinstance(condition, ConcatenatedCondition)
    ]
    return "".join(f", behind them {words.get(content, 'a depth map')}" for content in contents)


def _unet_outputs(setting: Setting) -> tuple[TensorRecord, ...]:
    kinds = {"epsilon": "noise", "v_prediction": "v", "sample": "denoised latents"}
    kind = kinds[setting.checkpoint.sampler.prediction_type]
    shape = (setting.guidance_batch, setting.checkpoint.unet_layout.out_channels, *setting.latent_size)
    return (_float16("model_output", shape, f"Predicted {kind} (batch, channels, height, width)."),)


def _decoder_outputs(setting: Setting) -> tuple[TensorRecord, ...]:
    return (_image(setting, setting.checkpoint.autoencoder_layout),)


def _image(setting: Setting, layout: AutoencoderLayout | TinyAutoencoderLayout) -> TensorRecord:
    height, width = setting.latent_size
    shape = (1, 3, layout.downsampling * height, layout.downsampling * width)
    return _float16("image", shape, "RGB image (1, 3, height, width), about -1 to 1, not clamped.")


def _preview_inputs(setting: Setting) -> tuple[TensorRecord, ...]:
    channels = setting.checkpoint.autoencoder_layout.latent_channels
    return (_latents(setting, 1, channels, "Latents as a step predicts them (1, channels, height, width)."),)


def _preview_outputs(setting: Setting) -> tuple[TensorRecord, ...]:
    layout = setting.checkpoint.preview_layout
    assert layout is not None  # the pipeline has a preview
    return (_image(setting, layout),)


def _encoder_inputs(setting: Setting) -> tuple[TensorRecord, ...]:
    factor = setting.checkpoint.autoencoder_layout.downsampling
    height, width = setting.latent_size
    shape = (1, 3, factor * height, factor * width)
    return (_float16("image", shape, "RGB image (1, 3, height, width), -1 black to 1 white."),)


def _encoder_outputs(setting: Setting) -> tuple[TensorRecord, ...]:
    channels = setting.checkpoint.autoencoder_layout.latent_channels
    return (
        _float16(
            "moments",
            (1, 2 * channels, *setting.latent_size),
            f"Of the latents' distribution, not scaled: {channels} channels of means, then as many of log variances.",
        ),
    )


def _safety_inputs(setting: Setting) -> tuple[TensorRecord, ...]:
    side = _safety_checker(setting).layout.image_size
    return (
        _float16(
            "pixel_values",
            (1, 3, side, side),
            "Picture (1, 3, height, width) scaled, cut and normalised by the host as the manifest says.",
        ),
    )


def _safety_outputs(setting: Setting) -> tuple[TensorRecord, ...]:
    width = _safety_checker(setting).layout.projection
    return (_float16("image_embeds", (1, width), "What the host compares with the concepts, by their cosine."),)


def _safety_checker(setting: Setting) -> SafetyCheckerFiles:
    found = setting.checkpoint.safety
    assert found is not None  # the pipeline has one
    return found


_SPECS: dict[ComponentName, ComponentSpec] = {
    spec.name: spec
    for spec in (
        _text_encoder_spec("text_encoder", "TextEncoder"),
        _text_encoder_spec("text_encoder_2", "TextEncoder2"),
        ComponentSpec(
            name="encoder",
            runs="per_given_picture",
            package="Encoder",
            description="Image encoder of the autoencoder: pixels to the distribution of their latents.",
            inputs=_encoder_inputs,
            outputs=_encoder_outputs,
        ),
        ComponentSpec(
            name="unet",
            runs="per_step",
            package="UNet",
            description="Denoising UNet: noisy latents, time and text to the model's prediction.",
            inputs=_unet_inputs,
            outputs=_unet_outputs,
            variation=Variation(sized=True, batched=True, cut=True),
        ),
        ComponentSpec(
            name="preview",
            runs="per_preview",
            package="Preview",
            description="Decoder of a tiny autoencoder: what a step predicts to a picture of it.",
            inputs=_preview_inputs,
            outputs=_preview_outputs,
        ),
        ComponentSpec(
            name="decoder",
            runs="per_picture",
            package="Decoder",
            description="Image decoder of the autoencoder: latents to pixels.",
            inputs=lambda setting: (
                _latents(
                    setting,
                    1,
                    setting.checkpoint.autoencoder_layout.latent_channels,
                    "Denoised latents (1, channels, height, width) divided by the scaling factor.",
                ),
            ),
            outputs=_decoder_outputs,
        ),
        ComponentSpec(
            name="safety_checker",
            runs="per_picture",
            package="SafetyChecker",
            description="CLIP vision encoder: a picture to the embedding that is compared with the safety concepts.",
            inputs=_safety_inputs,
            outputs=_safety_outputs,
            variation=FIXED,
        ),
    )
}


def component_specs(checkpoint: Checkpoint) -> dict[ComponentName, ComponentSpec]:
    """A spec for every component of the checkpoint's pipeline, in the order they run."""
    return {
        name: _control_spec(name) if name in checkpoint.controls else _SPECS[name]
        for name in checkpoint.description.components
    }


def chosen_components(checkpoint: Checkpoint, options: ExportOptions) -> tuple[ComponentName, ...]:
    """The components that an export is asked to make, in the order they run: all of the pipeline unless it names some.

    `checkpoint` has the optional ones in its pipeline already, see `with_wanted`. Raises `UsageError` for one that the
    pipeline doesn't have.
    """
    known = checkpoint.description.components
    for name in options.components or ():
        if name not in known:
            raise UsageError(f"Unknown component '{name}'; expected one of {', '.join(known)}.")
    return tuple(name for name in known if options.components is None or name in options.components)


def with_wanted(checkpoint: Checkpoint, options: ExportOptions, replaced: Manifest | None = None) -> Checkpoint:
    """The checkpoint with all optional components that the export names, or keeps of the bundle it replaces.

    Raises `UsageError` for one that the checkpoint doesn't have.
    """
    kept = () if replaced is None or options.components is None else replaced.components
    held = {name for name in kept if name in checkpoint.description.optional}
    return checkpoint.with_components({*options.extras, *(options.components or ()), *held})


def setting_for(checkpoint: Checkpoint, options: ExportOptions) -> Setting:
    """The shapes of this export.

    Raises `UsageError` for a latent size the UNet can't halve often enough.
    """
    sizes = [options.latent_size or checkpoint.latent_size, *options.more_latent_sizes]
    for size in sizes:
        _check_latent_size(checkpoint, size)
    return Setting(checkpoint, sizes[0], options.guidance_batch)


def fitted(options: ExportOptions, checkpoint: Checkpoint) -> ExportOptions:
    """The options as this checkpoint can have them: a UNet that takes the guidance scale as an input is called once a
    step, with the prompt alone, so its batch is 1; sizes in pixels are sizes of latents.

    Raises `UsageError` for sizes that can't be meant.
    """
    options = _in_latents(options, checkpoint)
    if checkpoint.controls and options.multifunction:
        raise UsageError(
            "A UNet under ControlNets has one function; leave out multifunction, or export a bundle for each size."
        )
    if checkpoint.unet_layout.guidance_embedding_dim is None:
        return options
    return replace(options, guidance_batch=1, both_batches=False)


def _in_latents(options: ExportOptions, checkpoint: Checkpoint) -> ExportOptions:
    factor = _factor(checkpoint.autoencoder_layout)
    if not options.sizes:
        for height, width in (options.latent_size or checkpoint.latent_size, *options.more_latent_sizes):
            if max(height, width) > SLIP * max(checkpoint.latent_size):
                pixels, own = (
                    f"{factor * height}x{factor * width}",
                    tuple(factor * side for side in checkpoint.latent_size),
                )
                raise UsageError(
                    f"Latents of {height}x{width} are pictures of {pixels} pixels and '{checkpoint.name}' draws "
                    f"{own[0]}x{own[1]}; say the size in pixels: --size {height}x{width}, or "
                    f"--size {pixels} if you mean that."
                )
        return options
    for height, width in options.sizes:
        if height % factor or width % factor:
            raise UsageError(
                f"Pictures of {height}x{width} pixels can't be drawn: '{checkpoint.name}' draws multiples of {factor} "
                f"pixels; the nearest is {_nearest(height, factor)}x{_nearest(width, factor)}."
            )
    first, *others = ((height // factor, width // factor) for height, width in options.sizes)
    return replace(options, sizes=(), latent_size=first, more_latent_sizes=tuple(others))


def _nearest(side: int, factor: int) -> int:
    return max(factor, round(side / factor) * factor)


def function_settings(setting: Setting, variation: Variation, options: ExportOptions) -> dict[str, Setting]:
    """The shapes of each function of a component, by the function's name; the default one first."""
    first, *others = options.functions(variation, setting.latent_size)
    settings = {MAIN: first, **{f"latents_{h}x{w}_batch_{batch}": (h, w, batch) for h, w, batch in others}}
    return {
        function: Setting(setting.checkpoint, (height, width), batch)
        for function, (height, width, batch) in settings.items()
    }


def _check_latent_size(checkpoint: Checkpoint, size: tuple[int, int]) -> None:
    checkpoint.unet_layout.check_latent_size(*size)
    if max(size) > LARGEST_LATENT_SIDE:
        raise UsageError(
            f"Latent size {size[0]}x{size[1]} is too large: expected at most {LARGEST_LATENT_SIDE} on each side "
            f"(an image of {LARGEST_LATENT_SIDE * _factor(checkpoint.autoencoder_layout)} pixels)."
        )


def _factor(layout: AutoencoderLayout | TinyAutoencoderLayout) -> int:
    return layout.downsampling
