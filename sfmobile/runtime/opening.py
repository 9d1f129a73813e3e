"""Choosing and opening: a bundle, the checkpoint it came from, a runtime on it. Paths or what is open already."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sfmobile.bundle.directory import Bundle
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.observer import Observer
from sfmobile.runtime.choices import (
    EVALUATING,
    PRECISIONS,
    RUNTIME_CHOICES,
    ComputeUnit,
    Precision,
    RuntimeChoice,
    RuntimeKind,
)
from sfmobile.runtime.protocol import Runtime

if TYPE_CHECKING:
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.checkpoint.source import Source


def open_bundle(
    bundle: Bundle | Path | str,
    latent_size: tuple[int, int] | None = None,
    guidance_batch: int | None = None,
    observer: Observer | None = None,
) -> Bundle:
    """`bundle` with the functions for another latent size (height, width) and guidance batch selected, if asked for.

    Every file of a path is compared with its checksum; an opened bundle is taken as it is. Raises `BundleError` for
    what isn't whole, `UsageError` for shapes that it wasn't exported for.
    """
    if not isinstance(bundle, Bundle):
        path, observer = Path(bundle), observer or Observer()
        total = sum(record.bytes for record in Bundle.open(path, check="sizes").files().values())
        observer.start(f"Checking {path.name}", total, "bytes")
        bundle = Bundle.open(path, check="full", advance=observer.advance)
    return bundle.for_shapes(latent_size, guidance_batch)


def has_source(bundle: Bundle, given: Checkpoint | Path | str | None) -> bool:
    """Whether there is a checkpoint to compare with: a given one, or the manifest's where it was."""
    from sfmobile.checkpoint.hub import is_here
    from sfmobile.checkpoint.source import Source

    if given is not None and not isinstance(given, (str, Path)):
        return True
    source = Source.recorded(bundle.manifest, given)
    return all(path.exists() for path in source.files) and (given is not None or is_here(source))


def open_source(
    bundle: Bundle, given: Checkpoint | Path | str | None = None, observer: Observer | None = None
) -> Checkpoint:
    """The checkpoint of a bundle, given or where the manifest says it was. Its weights must be the bundle's.

    Raises `UsageError` if it isn't here, `ArtifactError` if it is another one.
    """
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.checkpoint.hub import open_checkpoint
    from sfmobile.checkpoint.source import Source

    recorded = bundle.manifest.source
    source = Source.recorded(bundle.manifest, None if isinstance(given, Checkpoint) else given)
    if not has_source(bundle, given):
        absent = next((path for path in source.files if not path.exists()), None)
        if absent is not None:
            raise UsageError(
                f"'{absent}', which '{bundle.root}' was exported with, isn't here; put it back, or a file of its name "
                "beside the checkpoint, or export again."
            )
        raise UsageError(
            f"The checkpoint '{recorded.id}' that '{bundle.root}' was exported from isn't here; "
            "name its directory with --source."
        )
    checkpoint = given if isinstance(given, Checkpoint) else open_checkpoint(source)
    text = bundle.manifest.pipeline.text
    checkpoint = checkpoint.with_clip_skip(text.skipped_layers).with_prompt_chunks(text.chunks)
    checkpoint = checkpoint.with_recorded(bundle.manifest.pipeline.components)
    observer = observer or Observer()
    for name, record in bundle.manifest.components.items():
        total = sum(weight.nbytes for weight in checkpoint.state_dict(name).values())
        what = f"Checking that {checkpoint.root} is what {bundle.root.name} was exported from: {name}"
        observer.start(what, total, "bytes")
        found = checkpoint.sha256(name, observer.advance)
        if found != record.source_sha256:
            raise ArtifactError(
                f"'{checkpoint.root}' is not the checkpoint that '{bundle.root}' was exported from: its {name} has "
                f"SHA-256 {found[:12]}…, expected {record.source_sha256[:12]}…; name the right one with --source, or "
                "export again."
            )
    return checkpoint


def choose_runtime(choice: RuntimeChoice, bundle: Bundle) -> RuntimeKind:
    """The runtime meant. "auto" is onnx for ONNX files and coreai for .aimodels; for ML Programs coreml on macOS and
    mil elsewhere."""
    if choice != "auto":
        return choice
    formats = {record.format for record in bundle.manifest.components.values()}
    if "onnx" in formats:
        return "onnx"
    if "coreai" in formats:
        return "coreai"
    return "coreml" if platform.system() == "Darwin" else "mil"


def check_options(kind: RuntimeKind, precision: Precision, compute_unit: ComputeUnit | None) -> None:
    """Raise `UsageError` for an option of another runtime."""
    if precision not in PRECISIONS:
        raise UsageError(f"Precision '{precision}' is unknown; expected one of {', '.join(PRECISIONS)}.")
    if precision == "fp16" and kind not in EVALUATING:
        runtimes = " and ".join(EVALUATING)
        raise UsageError(f"--precision fp16 is an evaluation of the runtimes {runtimes}, not of {kind}; leave it out.")
    if compute_unit is not None and kind != "coreml":
        raise UsageError(f"--compute-unit is for the coreml runtime, not for {kind}; leave it out.")


def open_runtime(
    choice: RuntimeChoice,
    bundle: Bundle,
    *,
    precision: Precision = "fp32",
    compute_unit: ComputeUnit | None = None,
    source: Checkpoint | None = None,
) -> Runtime:
    """Open a runtime on `bundle`; nothing is loaded yet.

    precision: the evaluation of the mil and coreai runtimes; the others have one of their own and take only "fp32".
    compute_unit: of the coreml runtime, all units by default. source: the torch runtime's checkpoint, if it isn't
    where the manifest says.

    Raises `UsageError` for an unknown runtime or an option of another one, `UnavailableError` if this machine can't.
    """
    if choice not in RUNTIME_CHOICES:
        raise UsageError(f"Runtime '{choice}' is unknown; expected one of {', '.join(RUNTIME_CHOICES)}.")
    kind = choose_runtime(choice, bundle)
    check_options(kind, precision, compute_unit)
    if kind == "coreml":
        from sfmobile.runtime.coreml import CoreMLRuntime

        return CoreMLRuntime(bundle, compute_unit or "ALL")
    if kind == "torch":
        from sfmobile.runtime.torch import TorchRuntime

        return TorchRuntime(bundle, source)
    if kind == "onnx":
        from sfmobile.runtime.onnx.runtime import OnnxRuntime

        return OnnxRuntime(bundle)
    if kind == "coreai":
        from sfmobile.runtime.coreai.runtime import CoreAIRuntime

        return CoreAIRuntime(bundle, precision)
    from sfmobile.runtime.mil.runtime import MilRuntime

    return MilRuntime(bundle, precision)


@dataclass(frozen=True)
class RuntimeRequest:
    """Which runtime to open on which bundle; picklable, so that a fresh process can open it.

    precision: None on Core ML, which runs what the package says. source: of the torch runtime. latent_size (height,
    width), guidance_batch: which functions of packages that have several; None, the bundle's own.
    """

    bundle: Path
    kind: RuntimeKind
    precision: Precision | None = None
    compute_unit: ComputeUnit | None = None
    source: Source | None = None
    latent_size: tuple[int, int] | None = None
    guidance_batch: int | None = None

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        runtime: RuntimeChoice = "auto",
        precision: Precision = "fp32",
        compute_unit: ComputeUnit | None = None,
        source: Checkpoint | Path | str | None = None,
        observer: Observer | None = None,
    ) -> RuntimeRequest:
        """The runtime meant, checked for options that contradict each other, with the checkpoint it may need."""
        kind = choose_runtime(runtime, bundle)
        check_options(kind, precision, compute_unit)
        latents = bundle.manifest.latents
        return cls(
            bundle=bundle.root,
            kind=kind,
            precision=None if kind == "coreml" else precision,
            compute_unit=(compute_unit or "ALL") if kind == "coreml" else None,
            source=open_source(bundle, source, observer).source if kind == "torch" else None,
            latent_size=(latents.height, latents.width),
            guidance_batch=bundle.manifest.guidance.batch,
        )

    def open(self) -> tuple[Bundle, Runtime]:
        """Open the bundle (its checksums are the caller's business) and the runtime on it."""
        bundle = Bundle.open(self.bundle, check="none").for_shapes(self.latent_size, self.guidance_batch)
        return bundle, self.open_on(bundle)

    def open_on(self, bundle: Bundle) -> Runtime:
        """Open the runtime on a bundle that is open already."""
        from sfmobile.checkpoint.hub import open_checkpoint

        source = None if self.source is None else open_checkpoint(self.source)
        return open_runtime(
            self.kind, bundle, precision=self.precision or "fp32", compute_unit=self.compute_unit, source=source
        )
