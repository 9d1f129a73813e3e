"""An .aimodel on disk: checked, loaded by Apple's runtime, called.

An .aimodel is a directory: the program with its weights (`main.mlirb`), the checksum of that file (`main.hash`), and
`metadata.json`, which names the compiler.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from typing_extensions import Self

from sfmobile.errors import ArtifactError, UnavailableError
from sfmobile.files import read_json, sha256_of_file
from sfmobile.runtime.coreai import library

if TYPE_CHECKING:
    from coreai.runtime import InferenceFunction

    from sfmobile.mlpackage.program import Program
    from sfmobile.runtime.choices import Precision

PROGRAM_FILE, HASH_FILE, METADATA_FILE = "main.mlirb", "main.hash", "metadata.json"
MEND = "export it again or copy it anew"

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


def check_asset(path: Path) -> None:
    """Look at an .aimodel before Apple's runtime does, which ends the process over a damaged one.

    Raises `ArtifactError` for what isn't whole, `UnavailableError` for one of another compiler.
    """
    for name in (PROGRAM_FILE, HASH_FILE, METADATA_FILE):
        if not (path / name).is_file():
            raise ArtifactError(f"'{path}' is no .aimodel: it has no {name}; {MEND}.")
    content = read_json(path / METADATA_FILE, "the metadata of an .aimodel", MEND)
    metadata = content if isinstance(content, dict) else {}
    for key, expected in (("producer", library.PRODUCER), ("assetVersion", library.ASSET_VERSION)):
        if metadata.get(key) != expected:
            raise UnavailableError(
                f"'{path}' was written by another compiler: its {key} is '{metadata.get(key)}', expected '{expected}'; "
                f"export it again with {library.PRODUCER}."
            )
    if bytes.fromhex(sha256_of_file(path / PROGRAM_FILE)) != (path / HASH_FILE).read_bytes():
        raise ArtifactError(f"'{path / PROGRAM_FILE}' is not the file that {HASH_FILE} beside it is of; {MEND}.")


class Asset:
    """An .aimodel, loaded by Apple's runtime. A context manager; `close` releases it."""

    def __init__(self, path: Path, *, widened: bool = False) -> None:
        """widened: every float16 computes as a float32, from the weights as they are stored.

        Raises `ArtifactError` if `path` holds no whole .aimodel, `UnavailableError` for one of another compiler and
        where Apple's package isn't.
        """
        library.require()
        check_asset(path)
        try:
            if widened:
                with tempfile.TemporaryDirectory(prefix="sfmobile-coreai-") as folder:
                    self._open(_widened(path, Path(folder) / "wide.aimodel"))
            else:
                self._open(path)
        except RuntimeError as error:
            raise ArtifactError(f"'{path}' can't be loaded by {library.PRODUCER} ({error}); {MEND}.") from error
        self._functions: dict[str, InferenceFunction] = {}

    def _open(self, path: Path) -> None:
        from coreai.authoring import AIModelAsset

        # Only the asset's own executable runs on Linux: `AIModel.load` wants what is compiled for a device. Once it is
        # entered, all of it is in memory.
        self._opened = AIModelAsset.load(path).executable()
        self._model = event_loop().run(self._opened.__aenter__())

    @property
    def functions(self) -> tuple[str, ...]:
        """Names of the functions that can be called."""
        return tuple(self._model.function_names)

    def shapes(self, function: str) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
        """Shapes of a function's inputs and of its outputs, by name. Raises `ArtifactError` if there is none such."""
        described = self._function(function).desc
        return (
            {name: tuple(described.input_descriptor(name).shape) for name in described.input_names},
            {name: tuple(described.output_descriptor(name).shape) for name in described.output_names},
        )

    def call(self, function: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of a function by name, floats as float32; inputs are cast to the declared types."""
        from coreai.runtime import NDArray

        loaded = self._function(function)

        async def run() -> dict[str, np.ndarray]:
            given = {
                name: NDArray(value.astype(loaded.desc.input_descriptor(name).dtype)) for name, value in inputs.items()
            }
            return {name: np.array(value.numpy()) for name, value in (await loaded(given)).items()}

        found = event_loop().run(run())
        return {name: value.astype(np.float32) if value.dtype.kind == "f" else value for name, value in found.items()}

    def _function(self, name: str) -> InferenceFunction:
        if name not in self.functions:
            raise ArtifactError(
                f"The .aimodel has no function '{name}', only {', '.join(self.functions)}; export the bundle again."
            )
        if name not in self._functions:
            self._functions[name] = self._model.load_function(name)
        return self._functions[name]

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


def _widened(source: Path, target: Path) -> Path:
    """Write the .aimodel `target`: `source` with its halves computed wide."""
    from coreai.authoring import AIModelAsset

    program = AIModelAsset.load(source).program
    library.widen(program)
    program.save_asset(target)
    return target


def bridged(program: Program, precision: Precision, *, widened: bool = False) -> Asset:
    """A program handed to Apple's runtime: bridged operation by operation, written, loaded."""
    from sfmobile.runtime.coreai.bridge import bridge, write_asset

    with tempfile.TemporaryDirectory(prefix="sfmobile-coreai-") as folder:
        path = Path(folder) / "program.aimodel"
        write_asset(bridge({program.function: program}, precision, widened=widened), path)
        return Asset(path)


def trace(program: Program, inputs: Mapping[str, np.ndarray], precision: Precision) -> dict[str, np.ndarray]:
    """The result of every operation of `program`, by name: bridged with all of them as outputs. All are in memory."""
    made = tuple(name for operation in program.operations for name in operation.makes())
    with bridged(replace(program, outputs=made), precision) as asset:
        return asset.call(program.function, inputs)
