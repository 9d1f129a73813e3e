"""The worker as a host sees it: a process behind two pipes."""

from __future__ import annotations

import json
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfmobile.bundle.directory import Bundle
from sfmobile.runtime.wire import HEADER, HELLO, MAGIC, Code, Kind, Reader, pack_message, pack_string, pack_tensors
from tests.runtime.sample import expected_output, sample_inputs


class Host:
    """The other end of the pipes. Every read is of exactly what the protocol promises."""

    def __init__(self, bundle: Path, *options: str) -> None:
        command = [sys.executable, "-m", "sfmobile.runtime.worker", str(bundle), *options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.requests = 0

    def write(self, content: bytes) -> None:
        self.stdin.write(content)
        self.stdin.flush()

    def greet(self, hello: bytes = HELLO.pack(MAGIC, 1)) -> None:
        self.write(hello)
        assert self.stdout.read(HELLO.size) == HELLO.pack(MAGIC, 1)

    def receive(self) -> tuple[int, int, Reader]:
        length, kind, request = HEADER.unpack(self.stdout.read(HEADER.size))
        return kind, request, Reader(memoryview(self.stdout.read(length - 5)))

    def ask(self, kind: int, body: bytes = b"") -> Reader:
        """Send a request; the body of its reply, which must be of the matching kind."""
        self.requests += 1
        self.write(pack_message(kind, self.requests, body))
        found, request, reader = self.receive()
        assert (found, request) == (kind + 128, self.requests), bytes(reader.body)
        return reader

    def fail(self, kind: int, body: bytes = b"") -> tuple[Code, str]:
        """Send a request; code and sentence of its error."""
        self.requests += 1
        self.write(pack_message(kind, self.requests, body))
        return self.error(self.requests)

    def error(self, request: int, *, fatal: bool = False) -> tuple[Code, str]:
        kind, found, reader = self.receive()
        assert (kind, found) == (Kind.ERROR, request)
        code = Code(reader.number("H"))
        assert reader.number("B") == fatal
        sentence = reader.string()
        reader.end()
        return code, sentence

    def close(self) -> int:
        """Close the worker's stdin; its exit code. Nothing may be left on its stdout."""
        self.stdin.close()
        assert self.stdout.read() == b""
        return self.process.wait(timeout=60)


@pytest.fixture(scope="module")
def host(runtime_bundle: Bundle) -> Iterator[Host]:
    host = Host(runtime_bundle.root)
    host.greet()
    yield host
    assert host.close() == 0


def predict_body(name: str, inputs: dict[str, np.ndarray]) -> bytes:
    return pack_string(name) + pack_tensors(inputs)


def test_describe_tells_components_inputs_and_outputs(host: Host) -> None:
    description = json.loads(bytes(host.ask(Kind.DESCRIBE).body))
    assert description["protocol"] == 1
    assert description["runtime"].startswith("mil fp32 (torch ")
    components = {item["name"]: item for item in description["components"]}
    assert set(components) == {"text_encoder", "unet", "decoder"}
    assert components["text_encoder"]["inputs"] == [{"name": "input_ids", "shape": [1, 77], "dtype": "int32"}]
    assert components["decoder"]["outputs"] == [{"name": "image", "shape": [1, 3, 8, 8], "dtype": "float16"}]


@pytest.mark.parametrize("name", ["text_encoder", "unet", "decoder"])
def test_load_predict_unload(host: Host, name: Any) -> None:
    seconds = struct.unpack("<d", host.ask(Kind.LOAD, pack_string(name)).body)[0]
    assert 0 < seconds < 60
    inputs = sample_inputs(name)
    reversed_order = dict(reversed(inputs.items()))
    reply = host.ask(Kind.PREDICT, predict_body(name, reversed_order))
    assert struct.unpack("<d", reply.take(8))[0] > 0
    (output,) = reply.tensors().values()
    reply.end()
    assert output.dtype == np.float32
    np.testing.assert_allclose(output, expected_output(name, inputs), atol=1e-5)
    loaded = {item["name"] for item in json.loads(bytes(host.ask(Kind.DESCRIBE).body))["components"] if item["loaded"]}
    assert loaded == {name}
    # Twice each: neither is an error.
    for _ in range(2):
        host.ask(Kind.LOAD, pack_string(name))
    for _ in range(2):
        assert host.ask(Kind.UNLOAD, pack_string(name)).body == b""
    code, sentence = host.fail(Kind.PREDICT, predict_body(name, inputs))
    assert (code, sentence) == (Code.NOT_LOADED, f"Component '{name}' isn't loaded; load it first.")


@pytest.mark.parametrize(
    ("kind", "body", "code", "sentence"),
    [
        (9, b"", Code.PROTOCOL, "Message kind 9 is unknown; expected 1 to 4."),
        (Kind.DESCRIBE, b"x", Code.PROTOCOL, "The body has 1 bytes; expected 0 for this request."),
        (Kind.LOAD, b"", Code.PROTOCOL, "The body ends after 0 bytes"),
        (Kind.LOAD, pack_string("vae"), Code.COMPONENT, "no component 'vae'; it has text_encoder, unet, decoder"),
        (Kind.LOAD, pack_string("unet") + b"x", Code.PROTOCOL, "The body has 7 bytes; expected 6"),
    ],
)
def test_a_wrong_request_is_answered_and_the_next_is_served(
    host: Host, kind: int, body: bytes, code: Code, sentence: str
) -> None:
    found, text = host.fail(kind, body)
    assert found == code
    assert sentence in text
    host.ask(Kind.DESCRIBE)


def test_wrong_inputs_are_answered_by_name(host: Host) -> None:
    host.ask(Kind.LOAD, pack_string("decoder"))
    latents = sample_inputs("decoder")["latents"]
    twice = pack_tensors({"latents": latents})[2:]
    cases = {
        "has shape (1, 4, 8, 4); expected (1, 4, 8, 8)": pack_tensors({"latents": latents[..., :4]}),
        "has dtype int32; expected floats": pack_tensors({"latents": latents.astype(np.int32)}),
        "lacks its input 'latents'": pack_tensors({}),
        "has no input 'noise'": pack_tensors({"noise": latents}),
        "Input 'latents' is given twice": struct.pack("<H", 2) + twice + twice,
    }
    for sentence, tensors in cases.items():
        code, text = host.fail(Kind.PREDICT, pack_string("decoder") + tensors)
        assert code == Code.INPUT
        assert sentence in text


def test_pipelined_requests_wait_their_turn(host: Host) -> None:
    for request in (101, 102, 103):
        host.write(pack_message(Kind.DESCRIBE, request, b""))
    assert [host.receive()[1] for _ in range(3)] == [101, 102, 103]


def test_fp16_rounds_and_names_itself(runtime_bundle: Bundle) -> None:
    host = Host(runtime_bundle.root, "--precision", "fp16")
    host.greet()
    assert json.loads(bytes(host.ask(Kind.DESCRIBE).body))["runtime"].startswith("mil fp16 ")
    host.ask(Kind.LOAD, pack_string("decoder"))
    inputs = sample_inputs("decoder")
    reply = host.ask(Kind.PREDICT, predict_body("decoder", inputs))
    reply.take(8)
    image = reply.tensors()["image"]
    np.testing.assert_array_equal(image, image.astype(np.float16).astype(np.float32))
    assert host.close() == 0


def test_a_stray_print_doesnt_reach_the_host(runtime_bundle: Bundle, tmp_path: Path) -> None:
    """A worker whose runtime prints, in Python and below, still speaks the protocol alone on its stdout."""
    script = tmp_path / "noisy.py"
    script.write_text(
        "import os, sys\n"
        "from sfmobile.runtime import worker\n"
        "from sfmobile.runtime.mil.runtime import MilRuntime\n"
        "load = MilRuntime.load\n"
        "def noisy(self, name):\n"
        "    print('stray line'); sys.stdout.flush(); os.write(1, b'raw line')\n"
        "    assert sys.stdin.buffer.read() == b''\n"
        "    return load(self, name)\n"
        "MilRuntime.load = noisy\n"
        "sys.exit(worker.main(sys.argv[1:]))\n"
    )
    host = Host.__new__(Host)
    host.process = subprocess.Popen(
        [sys.executable, str(script), str(runtime_bundle.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert host.process.stdin is not None and host.process.stdout is not None
    host.stdin, host.stdout, host.requests = host.process.stdin, host.process.stdout, 0
    host.greet()
    host.ask(Kind.LOAD, pack_string("decoder"))
    host.ask(Kind.DESCRIBE)
    assert host.close() == 0
    assert host.process.stderr is not None
    assert host.process.stderr.read().startswith(b"stray line\nraw line")


@pytest.mark.parametrize(
    ("hello", "sentence"),
    [
        (b"GET / HTTP/1", "The hello begins with b'GET / HT'"),
        (HELLO.pack(MAGIC, 2), "The host speaks protocol version 2; this worker speaks 1."),
    ],
)
def test_a_wrong_hello_is_fatal(runtime_bundle: Bundle, hello: bytes, sentence: str) -> None:
    host = Host(runtime_bundle.root)
    host.greet(hello)
    code, text = host.error(0, fatal=True)
    assert code == Code.PROTOCOL
    assert sentence in text
    assert host.close() == 2


@pytest.mark.parametrize("length", [0, 4, (1 << 28) + 1, 0xFFFFFFFF])
def test_a_length_out_of_bounds_is_fatal(runtime_bundle: Bundle, length: int) -> None:
    host = Host(runtime_bundle.root)
    host.greet()
    host.write(struct.pack("<I", length))
    code, text = host.error(0, fatal=True)
    assert (code, text) == (Code.PROTOCOL, f"A message announces {length} bytes; expected 5 to 268435456.")
    assert host.close() == 2


def test_a_bundle_that_cant_be_opened_is_told_after_the_hello(tmp_path: Path) -> None:
    host = Host(tmp_path / "missing")
    host.greet()
    code, text = host.error(0, fatal=True)
    assert code == Code.ARTIFACT
    assert "missing" in text
    assert host.close() == 4


def test_the_worker_ends_with_its_host(runtime_bundle: Bundle) -> None:
    """EOF at rest and in the middle of a message, and a host that stops reading."""
    for rest in (b"", struct.pack("<I", 100) + b"half"):
        host = Host(runtime_bundle.root)
        host.greet()
        host.write(rest)
        assert host.close() == 0
    host = Host(runtime_bundle.root)
    host.greet()
    host.stdout.close()
    host.write(pack_message(Kind.DESCRIBE, 1, b""))
    assert host.process.wait(timeout=60) == 0


def test_a_killed_worker_is_an_end_of_file_to_the_host(runtime_bundle: Bundle) -> None:
    host = Host(runtime_bundle.root)
    host.greet()
    host.process.send_signal(signal.SIGKILL)
    assert host.stdout.read() == b""
    assert host.process.wait(timeout=60) == -signal.SIGKILL
