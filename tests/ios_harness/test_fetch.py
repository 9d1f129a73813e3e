"""`sfbench fetch` against a server of this machine that breaks off, knows no ranges, or holds damaged files."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sfmobile.bundle.directory import Bundle
from tests.bundle.sample import SAMPLE
from tests.ios_harness.test_sfbench import sfbench

WEIGHTS = "UNet.mlpackage/Data/com.apple.CoreML/weights/weight.bin"


class Server(ThreadingHTTPServer):
    """Serves a folder. `breaks`: how often a file's transfer ends half-way. `busy`: how often a 503 is the answer."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.breaks: Counter[str] = Counter()
        self.busy: Counter[str] = Counter()
        self.ranges = True
        self.requests: list[tuple[str, int]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/bundle"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        """Nothing on the tests' stderr."""

    def do_GET(self) -> None:
        path = self.path.removeprefix("/bundle/")
        file = self.server.root / path
        if self.server.busy[path] > 0:
            self.server.busy[path] -= 1
            self.send_error(503)
            return
        if not file.is_file():
            self.send_error(404)
            return
        body = file.read_bytes()
        start = 0
        wanted = self.headers.get("Range")
        if wanted and self.server.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.server.requests.append((path, start))
        rest = body[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if self.server.breaks[path] > 0:
            self.server.breaks[path] -= 1
            rest = rest[: len(rest) // 2]
        self.wfile.write(rest)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    root = tmp_path / "served"
    shutil.copytree(SAMPLE, root)
    with Server(root) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def fetch(server: Server, destination: Path, *options: object) -> subprocess.CompletedProcess[str]:
    return sfbench("fetch", server.address, "-o", destination, "--pause", 0, *options)


def test_a_bundle_is_fetched_and_opens(server: Server, tmp_path: Path) -> None:
    done = fetch(server, tmp_path / "bundle")
    assert done.returncode == 0, done.stderr
    bundle = Bundle.open(tmp_path / "bundle")
    assert f"{len(bundle.files())} files" in done.stdout
    assert [path for path, _ in server.requests].count(WEIGHTS) == 1
    assert not list(tmp_path.glob("**/*.part"))
    assert not (tmp_path / "bundle.download").exists()


def test_a_transfer_that_breaks_off_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    server.breaks[WEIGHTS] = 2
    done = fetch(server, tmp_path / "bundle")
    assert done.returncode == 0, done.stderr
    Bundle.open(tmp_path / "bundle")
    size = (SAMPLE / WEIGHTS).stat().st_size
    starts = [start for path, start in server.requests if path == WEIGHTS]
    assert starts == [0, size // 2, size // 2 + (size - size // 2) // 2]


def test_another_attempt_goes_on_with_what_has_come(server: Server, tmp_path: Path) -> None:
    server.breaks[WEIGHTS] = 1
    done = fetch(server, tmp_path / "bundle", "--attempts", 1)
    assert done.returncode == 3
    assert "what has come is kept" in done.stderr
    assert not (tmp_path / "bundle").exists()
    server.requests.clear()
    assert fetch(server, tmp_path / "bundle").returncode == 0
    assert [start for path, start in server.requests if path == WEIGHTS] == [(SAMPLE / WEIGHTS).stat().st_size // 2]
    Bundle.open(tmp_path / "bundle")


def test_a_server_without_ranges_is_asked_again_from_the_beginning(server: Server, tmp_path: Path) -> None:
    server.breaks[WEIGHTS] = 1
    server.ranges = False
    assert fetch(server, tmp_path / "bundle").returncode == 0
    assert [start for path, start in server.requests if path == WEIGHTS] == [0, 0]
    Bundle.open(tmp_path / "bundle")


def test_a_listing_counts_by_what_it_says(server: Server, tmp_path: Path) -> None:
    listing = server.root / "UNet.mlpackage/Manifest.json"
    listing.write_text(json.dumps(json.loads(listing.read_text())))
    done = fetch(server, tmp_path / "bundle")
    assert done.returncode == 0, done.stderr
    Bundle.open(tmp_path / "bundle")
    content = json.loads(listing.read_text())
    content["fileFormatVersion"] = "9.9.9"
    listing.write_text(json.dumps(content))
    done = fetch(server, tmp_path / "other")
    assert done.returncode == 4
    assert "UNet.mlpackage/Manifest.json" in done.stderr


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.busy["manifest.json"] = 2
    done = fetch(server, tmp_path / "bundle")
    assert done.returncode == 0, done.stderr


def test_a_damaged_file_is_named_and_never_put_in_place(server: Server, tmp_path: Path) -> None:
    file = server.root / WEIGHTS
    body = bytearray(file.read_bytes())
    body[-1] ^= 1
    file.write_bytes(bytes(body))
    done = fetch(server, tmp_path / "bundle")
    assert done.returncode == 4
    assert WEIGHTS in done.stderr
    assert "isn't what the manifest says" in done.stderr
    assert not (tmp_path / "bundle").exists()
    shutil.copy(SAMPLE / WEIGHTS, file)
    assert fetch(server, tmp_path / "bundle").returncode == 0


def test_a_longer_or_missing_file_is_refused(server: Server, tmp_path: Path) -> None:
    with (server.root / WEIGHTS).open("ab") as file:
        file.write(b"more")
    done = fetch(server, tmp_path / "bundle")
    assert done.returncode == 4
    assert "found more" in done.stderr
    (server.root / WEIGHTS).unlink()
    done = fetch(server, tmp_path / "other")
    assert done.returncode == 3
    assert "the server answered 404" in done.stderr


def test_the_manifest_can_be_pinned(server: Server, tmp_path: Path) -> None:
    digest = hashlib.sha256((SAMPLE / "manifest.json").read_bytes()).hexdigest()
    assert fetch(server, tmp_path / "bundle", "--sha256", digest).returncode == 0
    done = fetch(server, tmp_path / "other", "--sha256", "0" * 64)
    assert done.returncode == 4
    assert "manifest.json" in done.stderr


def test_a_manifest_that_leads_outside_is_refused(server: Server, tmp_path: Path) -> None:
    manifest = json.loads((SAMPLE / "manifest.json").read_text())
    files = manifest["components"]["unet"]["files"]
    files["../outside"] = files.pop(WEIGHTS)
    (server.root / "manifest.json").write_text(json.dumps(manifest))
    done = fetch(server, tmp_path / "bundle")
    assert done.returncode == 4
    assert not (tmp_path / "outside").exists()
