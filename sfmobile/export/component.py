"""One spec per component: everything the exporter needs to know of it, so that the exporter is one loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfmobile.bundle.choices import Runs
from sfmobile.bundle.manifest import ComponentName, TensorRecord
from sfmobile.errors import UsageError
from sfmobile.nets.layout import AutoencoderLayout

if TYPE_CHECKING:
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.export.options import ExportOptions

# A phone's memory ends long before; beyond this a size is a slip of the keyboard.
LARGEST_LATENT_SIDE = 512
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
    inputs, outputs: names, shapes, dtypes as stored (float16, int32) and descriptions.
    """

    name: ComponentName
    runs: Runs
    package: str
    description: str
    inputs: Callable[[Setting], tuple[TensorRecord, ...]]
    outputs: Callable[[Setting], tuple[TensorRecord, ...]]


def _float16(name: str, shape: tuple[int, ...], description: str) -> TensorRecord:
    return TensorRecord(name=name, shape=shape, dtype="float16", description=description)


def _context(setting: Setting, batch: int) -> TensorRecord:
    layout = setting.checkpoint.text_encoder_layout
    order = ", unconditional first, then conditional" if batch == 2 else ""
    return _float16(
        "encoder_hidden_states",
        (batch, layout.hidden, 1, layout.max_length),
        f"Text embedding: (batch, channels, 1, tokens){order}.",
    )


def _latents(setting: Setting, batch: int, description: str) -> TensorRecord:
    channels = setting.checkpoint.unet_layout.in_channels
    return _float16("latents", (batch, channels, *setting.latent_size), description)


def _text_encoder_inputs(setting: Setting) -> tuple[TensorRecord, ...]:
    length = setting.checkpoint.text_encoder_layout.max_length
    return (
        TensorRecord(
            name="input_ids",
            shape=(1, length),
            dtype="int32",
            description="Token ids of CLIP's byte-pair tokenizer, with start and end tokens, padded.",
        ),
    )


def _unet_inputs(setting: Setting) -> tuple[TensorRecord, ...]:
    batch = setting.guidance_batch
    dimension = setting.checkpoint.time_embedding.dimension
    order = ": the same latents twice" if batch == 2 else ""
    return (
        _latents(setting, batch, f"Noisy latents (batch, channels, height, width){order}."),
        _float16(
            "time_embedding",
            (batch, dimension, 1, 1),
            "Sinusoid of the timestep, computed by the host in full precision: (batch, channels, 1, 1).",
        ),
        _context(setting, batch),
    )


def _unet_outputs(setting: Setting) -> tuple[TensorRecord, ...]:
    kinds = {"epsilon": "noise", "v_prediction": "v", "sample": "denoised latents"}
    kind = kinds[setting.checkpoint.sampler.prediction_type]
    shape = (setting.guidance_batch, setting.checkpoint.unet_layout.out_channels, *setting.latent_size)
    return (_float16("model_output", shape, f"Predicted {kind} (batch, channels, height, width)."),)


def _decoder_outputs(setting: Setting) -> tuple[TensorRecord, ...]:
    factor = setting.checkpoint.autoencoder_layout.downsampling
    height, width = setting.latent_size
    shape = (1, 3, factor * height, factor * width)
    return (_float16("image", shape, "RGB image (1, 3, height, width), about -1 to 1, not clamped."),)


SPECS: dict[ComponentName, ComponentSpec] = {
    "text_encoder": ComponentSpec(
        name="text_encoder",
        runs="per_prompt",
        package="TextEncoder",
        description="CLIP text encoder: token ids to text embedding.",
        inputs=_text_encoder_inputs,
        outputs=lambda setting: (_context(setting, 1),),
    ),
    "unet": ComponentSpec(
        name="unet",
        runs="per_step",
        package="UNet",
        description="Denoising UNet: noisy latents, time and text to the model's prediction.",
        inputs=_unet_inputs,
        outputs=_unet_outputs,
    ),
    "decoder": ComponentSpec(
        name="decoder",
        runs="per_picture",
        package="Decoder",
        description="Image decoder of the autoencoder: latents to pixels.",
        inputs=lambda setting: (
            _latents(setting, 1, "Denoised latents (1, channels, height, width) divided by the scaling factor."),
        ),
        outputs=_decoder_outputs,
    ),
}


def setting_for(checkpoint: Checkpoint, options: ExportOptions) -> Setting:
    """The shapes of this export.

    Raises `UsageError` for a latent size the UNet can't halve often enough, and for a UNet that takes the guidance
    scale as an input: the pipeline guides outside of it.
    """
    if "unet" in options.components and checkpoint.unet_layout.guidance_embedding_dim is not None:
        raise UsageError(
            f"'{checkpoint.root / 'unet'}' takes the guidance scale as an input (time_cond_proj_dim = "
            f"{checkpoint.unet_layout.guidance_embedding_dim}), which bundles don't know; expected a UNet that is "
            "guided from outside, such as a student distilled without guidance conditioning."
        )
    sizes = [options.latent_size or checkpoint.latent_size, *options.more_latent_sizes]
    for size in sizes:
        _check_latent_size(checkpoint, size)
    return Setting(checkpoint, sizes[0], options.guidance_batch)


def function_settings(setting: Setting, name: ComponentName, options: ExportOptions) -> dict[str, Setting]:
    """The shapes of each function of the component `name`, by the function's name; the default one first."""
    first, *others = options.functions(name, setting.latent_size)
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


def _factor(layout: AutoencoderLayout) -> int:
    return layout.downsampling
