"""How long a component takes: cold and warm load, first prediction, and the distribution of the ones that follow."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from sfmobile.bench.memory import PeakMemory
from sfmobile.bench.report import ComponentLatency, LoopLatency

if TYPE_CHECKING:
    from sfmobile.bundle.manifest import ComponentName, TensorRecord
    from sfmobile.runtime.choices import RuntimeKind
    from sfmobile.runtime.opening import RuntimeRequest
    from sfmobile.sampling.pipeline import Request

Result = TypeVar("Result")
Advance = Callable[[int], None]


def measure_component(
    request: RuntimeRequest, name: ComponentName, predictions: int, advance: Advance
) -> ComponentLatency:
    """Measure one component; call it in a fresh process (`isolation.run_isolated`).

    advance: told 1 for each of the `predictions` + 3 pieces of work. Inputs are seeded noise of the recorded shapes:
    no operation's time depends on the values as long as they are finite.
    """
    bundle, runtime = request.open()
    warm_up(request.kind)
    record = bundle.manifest.components[name]
    inputs = {tensor.name: sample_input(tensor) for tensor in record.inputs}
    evict_from_file_cache(bundle.package(name))
    with PeakMemory() as memory:
        component, cold_load = timed(lambda: runtime.load(name))
        advance(1)
        with component:
            _, first = timed(lambda: component.predict(inputs))
            advance(1)
            seconds: list[float] = []
            for _ in range(predictions):
                seconds.append(timed(lambda: component.predict(inputs))[1])
                advance(1)
    reloaded, warm_load = timed(lambda: runtime.load(name))
    reloaded.close()
    advance(1)
    return ComponentLatency(
        cold_load_ms=cold_load * 1e3,
        warm_load_ms=warm_load * 1e3,
        first_prediction_ms=first * 1e3,
        predictions=predictions,
        median_ms=float(np.median(seconds)) * 1e3,
        p95_ms=float(np.percentile(seconds, 95)) * 1e3,
        minimum_ms=min(seconds) * 1e3,
        memory=memory.record,
        package_bytes=record.bytes,
        parameters=record.parameters,
    )


def measure_loop(request: RuntimeRequest, drawing: Request, advance: Advance) -> LoopLatency:
    """Measure text to pixels once, components loaded and each run once before; call it in a fresh process.

    advance: told 1 for each component made ready, each step and the decoding.
    """
    from sfmobile.sampling.picture import to_pixels
    from sfmobile.sampling.pipeline import TextToImage
    from sfmobile.sampling.samplers.named import name_of

    bundle, runtime = request.open()
    warm_up(request.kind)
    manifest = bundle.manifest
    with PeakMemory() as memory, TextToImage.of_bundle(bundle, runtime) as pipeline:
        for name, record in manifest.components.items():
            pipeline.component(name).predict({tensor.name: sample_input(tensor) for tensor in record.inputs})
            advance(1)
        start = perf_counter()
        text_encoder = 0.0
        steps: list[float] = []
        calls = 0
        latents: np.ndarray | None = None
        for step in pipeline.steps(drawing):
            if not steps:
                text_encoder = perf_counter() - start - step.seconds
            steps.append(step.seconds)
            calls += len(step.calls)
            latents = step.latents
            advance(1)
        assert latents is not None  # a run has at least one step
        final = latents
        image, decoder = timed(lambda: pipeline.decode(final))
        to_pixels(image)
        end_to_end = perf_counter() - start
        advance(1)
    scale = manifest.guidance.default_scale if drawing.guidance_scale is None else drawing.guidance_scale
    return LoopLatency(
        steps=len(steps),
        guidance_scale=scale,
        sampler=name_of(pipeline.sampler_record(drawing)),
        unet_calls=calls,
        text_encoder_ms=text_encoder * 1e3,
        steps_ms=tuple(seconds * 1e3 for seconds in steps),
        decoder_ms=decoder * 1e3,
        end_to_end_ms=end_to_end * 1e3,
        memory=memory.record,
    )


def warm_up(kind: RuntimeKind) -> None:
    """Import what a runtime imports on its first load: a cost of the process, not of any component."""
    modules: dict[RuntimeKind, tuple[str, ...]] = {
        "coreai": ("sfmobile.runtime.coreai.bridge", "coreai.runtime"),
        "mil": ("sfmobile.runtime.mil.evaluate", "sfmobile.mlpackage.program"),
        "torch": ("sfmobile.nets.unet", "sfmobile.nets.text_encoder", "sfmobile.nets.autoencoder"),
        "onnx": ("onnxruntime",),
        "coreml": ("coremltools",),
    }
    for module in modules[kind]:
        importlib.import_module(module)
    if kind == "mil":
        from sfmobile.mlpackage import schema

        schema.model()
        schema.mil()


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """The result and the wall-clock seconds it took."""
    start = perf_counter()
    result = work()
    return result, perf_counter() - start


def sample_input(tensor: TensorRecord, seed: int = 0) -> np.ndarray:
    """An input of the recorded shape: standard normal noise, or small token ids for an integer input."""
    generator = np.random.default_rng(seed)
    if tensor.dtype == "int32":
        return generator.integers(0, 256, size=tensor.shape, dtype=np.int32)
    return generator.standard_normal(tensor.shape).astype(np.float32)


def evict_from_file_cache(package: Path) -> bool:
    """Ask the system to forget the file contents of `package`, so that loading it reads the disk.

    Returns whether it could be asked: Linux can, macOS can't without administrator rights.
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    files = [package] if package.is_file() else [path for path in package.rglob("*") if path.is_file()]
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            # Pages that aren't on disk yet can't be dropped.
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    return True
