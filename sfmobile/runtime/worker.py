r"""A runtime behind two pipes, for hosts that aren't Python: `python -m sfmobile.runtime.worker BUNDLE`.

The host starts the worker, writes to its stdin and reads from its stdout. Options: `--precision fp32|fp16` (default
fp32) and `--runtime auto|coreml|mil|torch|onnx` (default mil). The log goes to stderr; stdout carries nothing but this
protocol (a stray print lands on stderr).

Protocol, version 1
===================
Every integer is little-endian and unsigned, every float IEEE 754 little-endian. `string` is a u16 byte count followed
by that many bytes of UTF-8, without a terminator.

Hello, once each way, host first, 12 bytes:

    magic     8 bytes   "SFMPIPE\n" (53 46 4D 50 49 50 45 0A)
    version   u32       1

The worker answers with the same 12 bytes (its own version) as soon as it has read the host's; importing torch may
take a few seconds, so allow 120 s. If the host's magic or version is wrong, or the bundle can't be opened, the answer
is followed by one `error` message with id 0 and the worker exits.

Message, either way:

    length    u32       bytes that follow this field (5 ... 268,435,456)
    kind      u8        see below
    id        u32       chosen by the host, any value but 0; the reply carries the same
    body      length - 5 bytes

The host sends one request at a time and reads its reply before the next (a pipelined request waits in the pipe).
Each request has exactly one reply: the kind below, or `error`. A fatal error belongs to no request and has id 0.

    kind  request    body                             kind  reply        body
    1     describe   (empty)                          129   description  UTF-8 JSON, see below
    2     load       string component                 130   loaded       f64 seconds
    3     predict    string component, tensors        131   predicted    f64 seconds, tensors
    4     unload     string component                 132   unloaded     (empty)
                                                      255   error        u16 code, u8 fatal, string sentence

`component` is a key of the manifest's `components` ("text_encoder", "unet", "decoder"). Loading a loaded component
and unloading one that isn't are no errors. `seconds` is the wall time of the load or of the prediction alone.

    tensors:  count u16 (0 ... 64), then `count` times
      name    string
      dtype   u8        1 float32, 2 int32
      rank    u8        0 ... 8
      dims    rank x u32
      data    product(dims) x 4 bytes, row-major (last axis fastest), no padding

Inputs are those the manifest records, each exactly once, in any order, with the recorded shape; float16 in the
manifest travels as float32. Outputs are all of the component's outputs, float32.

    description = {"protocol": 1, "runtime": "mil fp32 (torch 2.13 CPU)", "components": [
        {"name": "unet", "loaded": false,
         "inputs":  [{"name": "latents", "shape": [2, 4, 64, 64], "dtype": "float16"}, ...],
         "outputs": [{"name": "model_output", "shape": [2, 4, 64, 64], "dtype": "float16"}]}, ...]}

Error codes (a fatal error is the worker's last message; after any other the next request is served):

    1  protocol     bad magic, unknown kind, a length out of bounds, a body that doesn't parse
                    (fatal for magic, version and length, for then the stream has lost its frame)
    2  component    the bundle has no such component
    3  not loaded   predict on a component that isn't loaded
    4  input        an input is missing, unknown, given twice, or of the wrong shape or dtype
    5  artifact     a file of the bundle is missing, truncated, altered or from the future (fatal if at start)
    6  unavailable  this machine can't (fatal if at start)
    7  internal     a bug in the worker; the sentence names the exception, stderr has the traceback

End: the host closes the worker's stdin; the worker frees everything and exits with 0. Exit codes otherwise are the
command line's: 2 after a protocol error, 3 unavailable, 4 artifact. A worker whose host dies sees EOF, or a
broken pipe on its reply, and exits.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import IO

import numpy as np

from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import ComponentName, TensorRecord
from sfmobile.errors import ArtifactError, SfmobileError, UnavailableError
from sfmobile.runtime.choices import PRECISIONS, RUNTIME_CHOICES, Precision, RuntimeChoice
from sfmobile.runtime.component import InputError
from sfmobile.runtime.opening import open_runtime
from sfmobile.runtime.protocol import LoadedComponent, Runtime
from sfmobile.runtime.wire import (
    HELLO,
    LARGEST_LENGTH,
    LENGTH,
    MAGIC,
    SMALLEST_LENGTH,
    VERSION,
    Code,
    Kind,
    Reader,
    RequestError,
    pack_message,
    pack_string,
    pack_tensors,
)


class Worker:
    """Serves one host over two streams."""

    def __init__(self, source: IO[bytes], sink: IO[bytes]) -> None:
        self.source = source
        self.sink = sink
        self.loaded: dict[ComponentName, LoadedComponent] = {}

    def greet(self) -> None:
        """Exchange hellos. Raises `RequestError` (fatal) if the host's isn't ours."""
        hello = self.source.read(HELLO.size)
        self.sink.write(HELLO.pack(MAGIC, VERSION))
        self.sink.flush()
        magic, version = HELLO.unpack(hello) if len(hello) == HELLO.size else (hello, 0)
        if magic != MAGIC:
            raise RequestError(Code.PROTOCOL, f"The hello begins with {magic!r}; expected {MAGIC!r}.", fatal=True)
        if version != VERSION:
            raise RequestError(
                Code.PROTOCOL, f"The host speaks protocol version {version}; this worker speaks {VERSION}.", fatal=True
            )

    def serve(self, runtime: Runtime, bundle: Bundle) -> None:
        """Answer requests until the host closes its end. Raises `RequestError` if the stream loses its frame."""
        try:
            while (message := self.receive()) is not None:
                kind, request, body = message
                try:
                    self.send(kind + 128, request, self.answer(kind, body, runtime, bundle))
                except RequestError as error:
                    self.send_error(request, error)
                except SfmobileError as error:
                    self.send_error(request, RequestError(_code_of(error), str(error)))
                except Exception as error:  # The host is told of a bug and may go on.
                    traceback.print_exc()
                    self.send_error(request, RequestError(Code.INTERNAL, f"{type(error).__name__}: {error}"))
        finally:
            for component in self.loaded.values():
                component.close()

    def receive(self) -> tuple[int, int, memoryview] | None:
        """The next message; None if the host has closed its end."""
        prefix = self.source.read(LENGTH.size)
        if len(prefix) < LENGTH.size:
            return None
        (length,) = LENGTH.unpack(prefix)
        if not SMALLEST_LENGTH <= length <= LARGEST_LENGTH:
            raise RequestError(
                Code.PROTOCOL,
                f"A message announces {length} bytes; expected {SMALLEST_LENGTH} to {LARGEST_LENGTH}.",
                fatal=True,
            )
        content = self.source.read(length)
        if len(content) < length:
            return None
        kind, request = struct.unpack_from("<BI", content)
        return kind, request, memoryview(content)[SMALLEST_LENGTH:]

    def answer(self, kind: int, body: memoryview, runtime: Runtime, bundle: Bundle) -> bytes:
        """Body of the reply to a request."""
        reader = Reader(body)
        if kind == Kind.DESCRIBE:
            reader.end()
            return json.dumps(self.description(runtime, bundle)).encode("utf-8")
        if kind not in (Kind.LOAD, Kind.PREDICT, Kind.UNLOAD):
            raise RequestError(Code.PROTOCOL, f"Message kind {kind} is unknown; expected 1 to 4.")
        name = _component(reader.string(), bundle)
        if kind == Kind.LOAD:
            reader.end()
            return struct.pack("<d", self.load(name, runtime))
        if kind == Kind.UNLOAD:
            reader.end()
            if name in self.loaded:
                self.loaded.pop(name).close()
            return b""
        tensors = reader.tensors()
        reader.end()
        return self.predict(name, tensors)

    def description(self, runtime: Runtime, bundle: Bundle) -> dict[str, object]:
        """What `describe` answers."""

        def tensors(records: Sequence[TensorRecord]) -> list[dict[str, object]]:
            return [{"name": item.name, "shape": list(item.shape), "dtype": item.dtype} for item in records]

        components = [
            {
                "name": name,
                "loaded": name in self.loaded,
                "inputs": tensors(record.inputs),
                "outputs": tensors(record.outputs),
            }
            for name, record in bundle.manifest.components.items()
        ]
        return {"protocol": VERSION, "runtime": runtime.describe(), "components": components}

    def load(self, name: ComponentName, runtime: Runtime) -> float:
        """Load a component unless it is loaded; seconds it took."""
        start = perf_counter()
        if name not in self.loaded:
            self.loaded[name] = runtime.load(name)
        return perf_counter() - start

    def predict(self, name: ComponentName, tensors: dict[str, np.ndarray]) -> bytes:
        """Body of the reply to `predict`."""
        component = self.loaded.get(name)
        if component is None:
            raise RequestError(Code.NOT_LOADED, f"Component '{name}' isn't loaded; load it first.")
        start = perf_counter()
        outputs = component.predict(tensors)
        return struct.pack("<d", perf_counter() - start) + pack_tensors(outputs)

    def send(self, kind: int, request: int, body: bytes) -> None:
        """Write one message."""
        self.sink.write(pack_message(kind, request, body))
        self.sink.flush()

    def send_error(self, request: int, error: RequestError) -> None:
        """Write an `error` message."""
        self.send(Kind.ERROR, request, struct.pack("<HB", error.code, error.fatal) + pack_string(str(error)))


def _component(name: str, bundle: Bundle) -> ComponentName:
    for known in bundle.manifest.components:
        if known == name:
            return known
    raise RequestError(
        Code.COMPONENT, f"The bundle has no component '{name}'; it has {', '.join(bundle.manifest.components)}."
    )


def _code_of(error: SfmobileError) -> Code:
    if isinstance(error, InputError):
        return Code.INPUT
    if isinstance(error, ArtifactError):
        return Code.ARTIFACT
    return Code.UNAVAILABLE if isinstance(error, UnavailableError) else Code.INTERNAL


def private_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """stdin and stdout for the protocol alone: from now on file descriptor 1 is stderr, and 0 reads nothing."""
    source, sink = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return os.fdopen(source, "rb"), os.fdopen(sink, "wb")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker on this process' stdin and stdout; returns the exit code."""
    parser = argparse.ArgumentParser(prog="sfmobile.runtime.worker", description="A runtime behind two pipes.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--runtime", choices=RUNTIME_CHOICES, default="mil")
    options = parser.parse_args(arguments)
    try:
        return _run(Worker(*private_pipes()), options.bundle, options.runtime, options.precision)
    except BrokenPipeError:
        return 0  # The host is gone.
    except KeyboardInterrupt:
        return 130  # Ctrl-C goes to the host's whole group of processes.


def _run(worker: Worker, path: Path, runtime: RuntimeChoice, precision: Precision) -> int:
    try:
        worker.greet()
        bundle = Bundle.open(path)
        worker.serve(open_runtime(runtime, bundle, precision=precision), bundle)
    except RequestError as error:
        worker.send_error(0, error)
        return 2
    except SfmobileError as error:
        worker.send_error(0, RequestError(_code_of(error), str(error), fatal=True))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
