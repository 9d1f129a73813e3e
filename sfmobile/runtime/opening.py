"""Opening a runtime by name."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Literal, get_args

from sfmobile.bundle.directory import Bundle
from sfmobile.errors import UsageError
from sfmobile.runtime.protocol import Runtime

if TYPE_CHECKING:
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.runtime.coreml import ComputeUnit

RuntimeKind = Literal["auto", "coreml", "mil", "torch", "onnx"]
Precision = Literal["fp32", "fp16"]
RUNTIME_KINDS: tuple[RuntimeKind, ...] = get_args(RuntimeKind)


def choose_kind(bundle: Bundle) -> RuntimeKind:
    """What "auto" means for `bundle` here: onnx for ONNX files; for ML Programs coreml on macOS, mil elsewhere."""
    if any(record.format == "onnx" for record in bundle.manifest.components.values()):
        return "onnx"
    return "coreml" if platform.system() == "Darwin" else "mil"


def open_runtime(
    kind: RuntimeKind,
    bundle: Bundle,
    *,
    precision: Precision = "fp32",
    compute_unit: ComputeUnit | None = None,
    source: Checkpoint | None = None,
) -> Runtime:
    """Open the runtime `kind` on `bundle`; nothing is loaded yet.

    precision: the evaluation of the mil runtime; the others have one of their own and take only "fp32".
    compute_unit: of the coreml runtime, all units by default. source: the torch runtime's checkpoint, if it isn't
    where the manifest says.

    Raises `UsageError` for an unknown kind or an option of another runtime, `UnavailableError` if this machine can't.
    """
    if kind not in RUNTIME_KINDS:
        raise UsageError(f"Runtime '{kind}' is unknown; expected one of {', '.join(RUNTIME_KINDS)}.")
    if kind == "auto":
        kind = choose_kind(bundle)
    if precision not in get_args(Precision):
        raise UsageError(f"Precision '{precision}' is unknown; expected one of {', '.join(get_args(Precision))}.")
    if precision == "fp16" and kind != "mil":
        raise UsageError(f"Precision fp16 is an evaluation of the mil runtime, not of {kind}; leave it out.")
    if compute_unit is not None and kind != "coreml":
        raise UsageError(f"A compute unit is for the coreml runtime, not for {kind}; leave it out.")
    if kind == "coreml":
        from sfmobile.runtime.coreml import CoreMLRuntime

        return CoreMLRuntime(bundle, compute_unit or "ALL")
    if kind == "torch":
        from sfmobile.runtime.torch import TorchRuntime

        return TorchRuntime(bundle, source)
    if kind == "onnx":
        from sfmobile.runtime.onnx.runtime import OnnxRuntime

        return OnnxRuntime(bundle)
    from sfmobile.runtime.mil.runtime import MilRuntime

    return MilRuntime(bundle, precision)
