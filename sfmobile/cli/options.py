"""Options that several commands have, each with one name and one meaning, and how their texts are read."""

from __future__ import annotations

import math
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
BundleSizeOption = Annotated[
    str | None,
    typer.Option("--size", metavar="HxW", help="Another picture size in pixels that the bundle was exported for."),
]
LatentSizeOption = Annotated[
    str | None,
    typer.Option("--latent-size", metavar="HxW", help="Another size in latents that the bundle was exported for."),
]
OneLatentSizeOption = Annotated[
    str | None,
    typer.Option("--latent-size", metavar="HxW", help="Latent height and width; the checkpoint's own without it."),
]
SizeOption = Annotated[
    str | None,
    typer.Option("--size", metavar="HxW", help="The picture's height and width in pixels, in place of --latent-size."),
]
BitsOption = Annotated[
    str | None,
    typer.Option("--bits", metavar="1|2|3|4|6|8|none", help="Bits per weight; 6 without it (ONNX: none)."),
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


def parse_size(text: str, option: str = "--latent-size", example: str | None = None) -> tuple[int, int]:
    """Two numbers, height and width: "64x64" or "64"."""
    matched = re.fullmatch(r"(\d{1,5})(?:[xX×](\d{1,5}))?", text)
    if matched is None:
        example = example or ("64x64" if option == "--latent-size" else "512x512")
        raise UsageError(f"{option} {text} is no size; expected height x width, such as {example}.")
    height = int(matched[1])
    return height, int(matched[2]) if matched[2] is not None else height


def parse_optional_size(text: str | None, option: str = "--latent-size") -> tuple[int, int] | None:
    """`--latent-size` or `--size` that may be left out."""
    return None if text is None else parse_size(text, option)


def bundle_latents(bundle: Path, size: str | None, latent_size: str | None) -> tuple[int, int] | None:
    """`--size` or `--latent-size` of a bundle, which says how many pixels a latent is; None without either."""
    if size is None:
        return parse_optional_size(latent_size)
    if latent_size is not None:
        raise UsageError("--size and --latent-size say the same in pixels and in latents; leave one out.")
    from sfmobile.bundle.directory import Bundle

    factor = Bundle.open(bundle, "sizes").manifest.latents.pixels_per_latent
    height, width = parse_size(size, "--size")
    if height % factor or width % factor:
        raise UsageError(f"--size {size} isn't a multiple of the bundle's {factor} pixels a latent.")
    return height // factor, width // factor


def parse_numbers(option: str, text: str | None) -> tuple[float | None, ...]:
    """Numbers of an option that takes several, "2,4.5"; one None without it."""
    if text is None:
        return (None,)
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text} is no number, nor a list such as 2,4.5.") from None
    if not all(map(math.isfinite, numbers)):
        raise UsageError(f"{option} {text} is no number that can be used; expected a finite one.")
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"{option} {text} names a number twice; expected each once.")
    return numbers


def parse_counts(option: str, text: str | None) -> tuple[int | None, ...]:
    """Whole numbers of an option that takes several, "4,8"; one None without it."""
    if text is None:
        return (None,)
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"-?\d{1,9}", part) for part in parts) or len(set(parts)) < len(parts):
        raise UsageError(f"{option} {text} is no whole number, nor a list of some, each once, such as 4,8.")
    return tuple(map(int, parts))


def parse_bits(text: str | None) -> int | Literal["none"] | None:
    """`--bits`: a number or "none"; None without it."""
    if text is None:
        return None
    if text == "none":
        return "none"
    if not text.isdecimal():
        raise UsageError(f"--bits {text} is no number of bits; expected 1, 2, 3, 4, 6, 8 or none.")
    return int(text)


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
