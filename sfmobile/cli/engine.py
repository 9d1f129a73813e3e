"""What a command runs on: the bundle, the checkpoint it came from, the runtime; and the options that choose them."""

from __future__ import annotations

import platform
import re
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sfmobile.cli import console
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.models import find_checkpoint

if TYPE_CHECKING:
    from sfmobile.bench.latency import EngineRequest
    from sfmobile.bench.report import BundleReference, Engine, ProducerRecord
    from sfmobile.bundle.directory import Bundle
    from sfmobile.checkpoint.directory import Checkpoint


class RuntimeChoice(str, Enum):
    """`--runtime`."""

    auto = "auto"
    coreml = "coreml"
    mil = "mil"
    torch = "torch"
    onnx = "onnx"


class PrecisionChoice(str, Enum):
    """`--precision`."""

    fp32 = "fp32"
    fp16 = "fp16"


class UnitChoice(str, Enum):
    """`--compute-unit`."""

    ALL = "ALL"
    CPU_AND_NE = "CPU_AND_NE"
    CPU_AND_GPU = "CPU_AND_GPU"
    CPU_ONLY = "CPU_ONLY"


BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle that `sfmobile export` made.")]
RuntimeOption = Annotated[
    RuntimeChoice,
    typer.Option("--runtime", help="What executes the components; auto is coreml on macOS and mil elsewhere."),
]
PrecisionOption = Annotated[
    PrecisionChoice,
    typer.Option("--precision", help="Evaluation of the mil runtime: fp16 rounds every operation's result."),
]
UnitOption = Annotated[UnitChoice | None, typer.Option("--compute-unit", help="Core ML's compute units; coreml only.")]
SourceOption = Annotated[
    Path | None,
    typer.Option(
        "--source", metavar="CHECKPOINT", help="The checkpoint the bundle was exported from, if it isn't where it was."
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
JsonOption = Annotated[bool, typer.Option("--json", help="JSON alone on stdout instead of a table.")]


def open_bundle(path: Path, latent_size: str | None = None, guidance_batch: int | None = None) -> Bundle:
    """Open a bundle, every file checked against its checksum, and select the functions that were asked for."""
    from sfmobile.bundle.directory import Bundle

    total = sum(record.bytes for record in Bundle.open(path, check="sizes").files().values())
    with console.progress(in_bytes=True) as bars:
        task = bars.add_task(f"Checking {path.name}", total=total)
        bundle = Bundle.open(path, check="full", advance=lambda count: bars.advance(task, count))
    size = None if latent_size is None else parse_size(latent_size)
    batch = None if guidance_batch is None else parse_batch(guidance_batch)
    return bundle.for_shapes(size, batch)


def parse_size(text: str) -> tuple[int, int]:
    """`--latent-size`: "64x64" or "64"."""
    matched = re.fullmatch(r"(\d{1,5})(?:[xX](\d{1,5}))?", text)
    if matched is None:
        raise UsageError(f"--latent-size {text} is no size; expected height x width, such as 64x64.")
    height = int(matched[1])
    return height, int(matched[2]) if matched[2] is not None else height


def parse_batch(number: int) -> Literal[1, 2]:
    """`--guidance-batch`."""
    if number == 1:
        return 1
    if number == 2:
        return 2
    raise UsageError(f"--guidance-batch {number} is impossible; expected 2 (both halves in one call) or 1.")


def choose_engine(runtime: RuntimeChoice, bundle: Bundle) -> Engine:
    """The runtime meant: `auto` by what the bundle holds and what this machine has."""
    named: dict[RuntimeChoice, Engine] = {
        RuntimeChoice.coreml: "coreml",
        RuntimeChoice.mil: "mil",
        RuntimeChoice.torch: "torch",
        RuntimeChoice.onnx: "onnx",
    }
    if runtime in named:
        return named[runtime]
    if any(record.format == "onnx" for record in bundle.manifest.components.values()):
        return "onnx"
    return "coreml" if platform.system() == "Darwin" else "mil"


def request_engine(
    bundle: Bundle,
    runtime: RuntimeChoice,
    precision: PrecisionChoice,
    unit: UnitChoice | None,
    source: Path | None,
) -> EngineRequest:
    """The runtime to open, checked for options that contradict each other."""
    from sfmobile.bench.latency import EngineRequest

    engine = choose_engine(runtime, bundle)
    if unit is not None and engine != "coreml":
        raise UsageError(f"--compute-unit is for the coreml runtime, not for {engine}; leave it out.")
    if precision is PrecisionChoice.fp16 and engine != "mil":
        raise UsageError(f"--precision fp16 is an evaluation of the mil runtime, not of {engine}; leave it out.")
    return EngineRequest(
        bundle=bundle.root,
        engine=engine,
        precision=None if engine == "coreml" else precision.value,
        compute_unit=None if engine != "coreml" else unit.value if unit is not None else "ALL",
        source=find_source(bundle, source).root if engine == "torch" else None,
        latent_size=(bundle.manifest.latents.height, bundle.manifest.latents.width),
        guidance_batch=bundle.manifest.guidance.batch,
    )


def has_source(bundle: Bundle, given: Path | None) -> bool:
    """Whether there is a checkpoint to compare with: a given one, or the manifest's where it was."""
    return given is not None or find_checkpoint(Path(bundle.manifest.source.id)).is_dir()


def find_source(bundle: Bundle, given: Path | None) -> Checkpoint:
    """The checkpoint of a bundle, given or where the manifest says it was. Its weights must be the bundle's."""
    from sfmobile.checkpoint.directory import Checkpoint

    recorded = bundle.manifest.source.id
    if not has_source(bundle, given):
        raise UsageError(
            f"The checkpoint '{recorded}' that '{bundle.root}' was exported from isn't here; "
            "name its directory with --source."
        )
    checkpoint = Checkpoint.open(given or Path(recorded))
    for name, record in bundle.manifest.components.items():
        with console.status(f"Checking that {checkpoint.root} is what {bundle.root.name} was exported from: {name}"):
            found = checkpoint.sha256(name)
        if found != record.source_sha256:
            raise ArtifactError(
                f"'{checkpoint.root}' is not the checkpoint that '{bundle.root}' was exported from: its {name} has "
                f"SHA-256 {found[:12]}…, expected {record.source_sha256[:12]}…; name the right one with --source, or "
                "export again."
            )
    return checkpoint


def producer() -> ProducerRecord:
    """What a report says of its writer."""
    from sfmobile.bench.machine import tool_versions
    from sfmobile.bench.report import ProducerRecord

    return ProducerRecord(tools=tool_versions())


def reference(bundle: Bundle) -> BundleReference:
    """What a report says of the bundle it measured."""
    from sfmobile.bench.report import BundleReference
    from sfmobile.bundle.digest import digest_file
    from sfmobile.bundle.directory import MANIFEST_FILE

    manifest = bundle.manifest
    return BundleReference(
        name=manifest.name,
        manifest_sha256=digest_file(bundle.root / MANIFEST_FILE).sha256,
        source_id=manifest.source.id,
        source_sha256=manifest.source.sha256,
        target=manifest.target,
    )
