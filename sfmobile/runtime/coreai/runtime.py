"""The coreai runtime: a bundle's packages, bridged to Core AI and executed by Apple's runtime."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Coroutine
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import ComponentName, ComponentRecord
from sfmobile.errors import UsageError
from sfmobile.runtime.chunks import ChunkedComponent
from sfmobile.runtime.component import Component
from sfmobile.runtime.coreai import library

if TYPE_CHECKING:
    from coreai.runtime import InferenceFunction

Result = TypeVar("Result")
FUNCTION = "main"


class EventLoop:
    """Apple's runtime is asynchronous only: one event loop on a thread of its own serves blocking callers."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="coreai", daemon=True).start()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of `work`, waited for."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class CoreAIComponent(Component):
    """A component as an .aimodel, loaded by Apple's runtime."""

    def __init__(self, name: ComponentName, record: ComponentRecord, asset: Path, loop: EventLoop) -> None:
        from coreai.authoring import AIModelAsset

        super().__init__(name, record)
        self._loop = loop
        # Only the asset's own executable runs on Linux: `AIModel.load` wants what is compiled for a device.
        self._opened = AIModelAsset.load(asset).executable()
        model = loop.run(self._opened.__aenter__())
        self._function: InferenceFunction | None = model.load_function(record.function or FUNCTION)
        self._numbers = {
            name: self._function.desc.input_descriptor(name).dtype for name in self._function.desc.input_names
        }

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Call the function."""
        from coreai.runtime import NDArray

        function = self._function
        assert function is not None

        async def call() -> dict[str, np.ndarray]:
            given = {key: NDArray(value.astype(self._numbers[key])) for key, value in inputs.items()}
            found = await function(given)
            return {tensor.name: np.array(found[tensor.name].numpy()) for tensor in self.outputs}

        return self._loop.run(call())

    def free(self) -> None:
        """Let Apple's runtime release the model."""
        if self._function is not None:
            self._function = None
            self._loop.run(self._opened.__aexit__(None, None, None))


class CoreAIRuntime:
    """Executes a bundle's ML Programs by Apple's Core AI runtime; on Linux by its reference CPU kernels, slowly."""

    def __init__(self, bundle: Bundle, precision: Literal["fp32", "fp16"] = "fp32", *, widened: bool = False) -> None:
        """`widened`: fp16 with matrix products and gelu computed wide and rounded once, as `mil` does.

        Raises `UnavailableError` where Apple's package isn't.
        """
        library.require()
        self.bundle = bundle
        self.precision = precision
        self.widened = widened

    @cached_property
    def _loop(self) -> EventLoop:
        return EventLoop()

    def describe(self) -> str:
        """E.g. "coreai fp32 (coreai-core 1.0.0b3 CPU)"."""
        return f"coreai {self.precision} ({library.DISTRIBUTION} {library.VERSION} CPU)"

    def load(self, name: ComponentName) -> Component:
        """Bridge one component's package and load it.

        Raises `ArtifactError` if its package is missing or broken, `UsageError` if it is no ML Program,
        `UnavailableError` for an operation without a counterpart.
        """
        package = self.bundle.package(name)
        record = self.bundle.manifest.components[name]
        if record.format != "mlprogram":
            raise UsageError(f"{package} is an ONNX file, which the coreai runtime can't execute; use --runtime onnx.")
        if record.chunks:
            return ChunkedComponent(name, record, lambda part: self._load_package(name, part))
        return self._load_package(name, record)

    def _load_package(self, name: ComponentName, record: ComponentRecord) -> CoreAIComponent:
        from sfmobile.mlpackage.program import load_program
        from sfmobile.runtime.coreai.bridge import bridge, write_asset

        program = load_program(self.bundle.root / record.package, record.function)
        folder = Path(tempfile.mkdtemp(prefix="sfmobile-coreai-"))
        try:
            asset = folder / "program.aimodel"
            functions = {record.function or FUNCTION: program}
            write_asset(bridge(functions, self.precision, widened=self.widened), asset)
            return CoreAIComponent(name, record, asset, self._loop)
        finally:
            # It is in memory once loaded.
            shutil.rmtree(folder, ignore_errors=True)
