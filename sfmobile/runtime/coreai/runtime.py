"""The coreai runtime: a bundle's packages, bridged to Core AI and executed by Apple's runtime."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Coroutine, Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from typing_extensions import Self

from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import ComponentName, ComponentRecord
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.runtime.chunks import ChunkedComponent
from sfmobile.runtime.component import Component
from sfmobile.runtime.coreai import library

if TYPE_CHECKING:
    from coreai.runtime import InferenceFunction

Result = TypeVar("Result")


class EventLoop:
    """Apple's runtime is asynchronous only: one event loop on a thread of its own serves blocking callers."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="coreai", daemon=True).start()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of `work`, waited for."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


@cache
def event_loop() -> EventLoop:
    """The process's loop for Apple's runtime, started when it is first needed."""
    return EventLoop()


class Asset:
    """A written program, loaded by Apple's runtime. A context manager; `close` releases it."""

    def __init__(self, path: Path) -> None:
        """Raises `ArtifactError` if `path` holds no .aimodel that this version reads."""
        from coreai.authoring import AIModelAsset

        try:
            # Only the asset's own executable runs on Linux: `AIModel.load` wants what is compiled for a device.
            self._opened = AIModelAsset.load(path).executable()
            self._model = event_loop().run(self._opened.__aenter__())
        except RuntimeError as error:
            raise ArtifactError(
                f"'{path}' can't be loaded by {library.DISTRIBUTION} {library.VERSION} ({error}); export it again with "
                "this version."
            ) from error
        self._functions: dict[str, InferenceFunction] = {}

    def call(self, function: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of a function by name, floats as float32; inputs are cast to the declared types."""
        from coreai.runtime import NDArray

        if function not in self._functions:
            self._functions[function] = self._model.load_function(function)
        loaded = self._functions[function]

        async def run() -> dict[str, np.ndarray]:
            given = {
                name: NDArray(value.astype(loaded.desc.input_descriptor(name).dtype)) for name, value in inputs.items()
            }
            return {name: np.array(value.numpy()) for name, value in (await loaded(given)).items()}

        found = event_loop().run(run())
        return {name: value.astype(np.float32) if value.dtype.kind == "f" else value for name, value in found.items()}

    def close(self) -> None:
        """Let Apple's runtime release the program."""
        self._functions.clear()
        event_loop().run(self._opened.__aexit__(None, None, None))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class CoreAIComponent(Component):
    """A component as a Core AI program."""

    def __init__(self, name: ComponentName, record: ComponentRecord, asset: Asset) -> None:
        super().__init__(name, record)
        self._asset = asset
        self._called = record.function

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Call the function."""
        found = self._asset.call(self._called, inputs)
        return {tensor.name: found[tensor.name] for tensor in self.outputs}

    def free(self) -> None:
        """Release the program."""
        self._asset.close()


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
            write_asset(bridge({record.function: program}, self.precision, widened=self.widened), asset)
            return CoreAIComponent(name, record, Asset(asset))
        finally:
            # It is in memory once loaded.
            shutil.rmtree(folder, ignore_errors=True)
