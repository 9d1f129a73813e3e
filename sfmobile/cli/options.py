"""Options that several commands have, each with one name and one meaning, and how their texts are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from sfmobile.checkpoint.source import Prediction
from sfmobile.errors import UsageError
from sfmobile.runtime.choices import ComputeUnit, Precision, RuntimeChoice

if TYPE_CHECKING:
    from sfmobile.sampling.sizes import Sizes

Choice = TypeVar("Choice", bound=str)

BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle that `sfmobile export` made.")]
RuntimeOption = Annotated[
    RuntimeChoice,
    typer.Option("--runtime", help="What executes the components; auto is coreml on macOS and mil elsewhere."),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option("--precision", help="Evaluation of the mil runtime: fp16 rounds every operation's result."),
]
UnitOption = Annotated[ComputeUnit | None, typer.Option("--compute-unit", help="Core ML's compute units; coreml only.")]
SourceOption = Annotated[
    Path | None,
    typer.Option(
        "--source", metavar="CHECKPOINT", help="The checkpoint the bundle was exported from, if it isn't where it was."
    ),
]
RevisionOption = Annotated[
    str | None, typer.Option("--revision", metavar="NAME", help="Branch, tag or commit of a model on the Hub.")
]
LoraOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lora", metavar="FILE[:SCALE]", help="A LoRA to merge into the weights, at scale 1; may be repeated."
    ),
]
EmbeddingOption = Annotated[
    list[str] | None,
    typer.Option(
        "--embedding",
        metavar="FILE[:TOKEN]",
        help="Textual inversion: the file's vectors as a token, by default its own; may be repeated.",
    ),
]
VaeOption = Annotated[
    Path | None,
    typer.Option("--vae", metavar="DIR|FILE", help="Another autoencoder in place of the checkpoint's."),
]
PreviewDecoderOption = Annotated[
    Path | None,
    typer.Option(
        "--preview", metavar="DIR|FILE", help="A tiny autoencoder (TAESD), whose decoder shows what steps predict."
    ),
]
TokenizerOption = Annotated[
    Path | None,
    typer.Option("--tokenizer", metavar="DIR", help="For a single file whose vocabulary isn't CLIP's."),
]
PredictionOption = Annotated[
    Prediction | None,
    typer.Option("--prediction", help="What a single file's UNet predicts, where nothing in it says so."),
]
ControlNetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--control",
        metavar="NAME=DIR",
        help="A ControlNet's directory, exported beside the UNet under a name; may be repeated.",
    ),
]
LatentSizeOption = Annotated[
    str | None,
    typer.Option("--latent-size", metavar="HxW", help="Another latent size that the bundle was exported for."),
]
GuidanceBatchOption = Annotated[
    int | None,
    typer.Option("--guidance-batch", metavar="1|2", help="The other guidance batch of a multifunction bundle."),
]
SamplerOption = Annotated[
    str | None,
    typer.Option(
        "--sampler",
        metavar="NAME",
        help="Another sampler than the model's own: ddim, euler-ancestral, dpm++2m-karras …",
    ),
]
EtaOption = Annotated[
    float | None,
    typer.Option("--eta", metavar="0..1", help="How much noise is drawn anew on the way; of ddim and tcd."),
]
COMPONENT_METAVAR = "text_encoder|unet|decoder|…"
JsonOption = Annotated[bool, typer.Option("--json", help="JSON alone on stdout instead of a table.")]


def parse_choices(option: str, texts: Sequence[str] | None, choices: tuple[Choice, ...]) -> tuple[Choice, ...]:
    """The values of an option that may be repeated; typer takes `Literal` for single values only."""
    wanted = tuple(choice for text in texts or () for choice in choices if choice == text)
    if len(wanted) != len(texts or ()):
        unknown = next(text for text in texts or () if text not in choices)
        raise UsageError(f"{option} {unknown} is none of {', '.join(choices)}.")
    return wanted


def parse_size(text: str, option: str = "--latent-size", example: str = "64x64") -> tuple[int, int]:
    """Two numbers, height and width: "64x64" or "64"."""
    matched = re.fullmatch(r"(\d{1,5})(?:[xX](\d{1,5}))?", text)
    if matched is None:
        raise UsageError(f"{option} {text} is no size; expected height x width, such as {example}.")
    height = int(matched[1])
    return height, int(matched[2]) if matched[2] is not None else height


def parse_optional_size(text: str | None) -> tuple[int, int] | None:
    """`--latent-size` that may be left out."""
    return None if text is None else parse_size(text)


def parse_sizes(original: str | None, crop: str | None, target: str | None) -> Sizes:
    """`--original-size`, `--crop` and `--target-size`, the picture's own without them."""
    from sfmobile.sampling.sizes import Sizes

    matched = None if crop is None else re.fullmatch(r"(\d{1,5})[,xX](\d{1,5})", crop)
    if crop is not None and matched is None:
        raise UsageError(f"--crop {crop} is no place; expected top,left in pixels, such as 0,128.")
    return Sizes(
        None if original is None else parse_size(original, "--original-size", "1024x1024"),
        (0, 0) if matched is None else (int(matched[1]), int(matched[2])),
        None if target is None else parse_size(target, "--target-size", "1024x1024"),
    )


def parse_batch(number: int) -> Literal[1, 2]:
    """`--guidance-batch`."""
    if number == 1:
        return 1
    if number == 2:
        return 2
    raise UsageError(f"--guidance-batch {number} is impossible; expected 2 (both halves in one call) or 1.")


def parse_optional_batch(number: int | None) -> Literal[1, 2] | None:
    """`--guidance-batch` that may be left out."""
    return None if number is None else parse_batch(number)
