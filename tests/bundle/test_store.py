from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sfmobile.bundle.digest import digest_file
from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import COMPONENTS, ComponentName
from sfmobile.bundle.store import BundleWriter, require_disk
from sfmobile.errors import SfmobileError, UnavailableError, UsageError
from tests.bundle.sample import OPTIONS_SHA, SOURCE_SHA, add_component, finish_bundle, write_package, write_sample

ROOT = Path(__file__).parents[2]
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@contextmanager
def child(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process of our own that runs `script`; killed and reaped at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_finished_bundle_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_sample(tmp_path / "bundle")
    assert entries(tmp_path) == {"bundle"}
    assert "weights" not in entries(tmp_path / "bundle")
    Bundle.open(tmp_path / "bundle")


def test_target_appears_only_when_whole(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with BundleWriter(target) as writer:
        records = {}
        for name in COMPONENTS:
            records[name] = add_component(writer, name)
            assert not target.exists()
        finish_bundle(writer, records)
    assert target.is_dir()


def test_failed_component_leaves_no_trace_and_finished_ones_stay(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with pytest.raises(ValueError, match="conversion failed"), BundleWriter(target) as writer:
        add_component(writer, "unet")
        with writer.component("decoder", "Decoder.mlpackage") as path:
            write_package(path)
            raise ValueError("conversion failed")
    assert entries(tmp_path) == {".bundle.partial"}
    assert entries(tmp_path / ".bundle.partial") == {".records", "UNet.mlpackage"}


def test_failure_before_any_component_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError), BundleWriter(tmp_path / "bundle"):
        raise ValueError
    assert entries(tmp_path) == set()


def test_rerun_reuses_a_component_of_the_same_source_and_options(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with BundleWriter(target) as writer:
        record = add_component(writer, "unet")
    with BundleWriter(target) as writer:
        assert writer.reusable("unet", SOURCE_SHA, OPTIONS_SHA) == record
        assert writer.reusable("decoder", SOURCE_SHA, OPTIONS_SHA) is None


@pytest.mark.parametrize("change", ["source", "options"])
def test_other_source_or_options_rebuild(tmp_path: Path, change: str) -> None:
    target = tmp_path / "bundle"
    write_sample(target)
    hashes = {"source": SOURCE_SHA, "options": OPTIONS_SHA} | {change: "9" * 64}
    with BundleWriter(target) as writer:
        assert writer.reusable("unet", hashes["source"], hashes["options"]) is None


def test_staged_component_with_a_changed_byte_is_rebuilt(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with BundleWriter(target) as writer:
        add_component(writer, "unet")
    weights = writer.staging / "UNet.mlpackage" / WEIGHTS
    weights.write_bytes(b"X" + weights.read_bytes()[1:])
    with BundleWriter(target) as writer:
        assert writer.reusable("unet", SOURCE_SHA, OPTIONS_SHA) is None
        assert not (writer.staging / "UNet.mlpackage").exists()


@pytest.mark.parametrize("content", ["", "{}", "[" * 100_000, '{"bytes": NaN}', None])
def test_a_record_that_can_not_be_read_counts_as_none(tmp_path: Path, content: str | None) -> None:
    target = tmp_path / "bundle"
    with BundleWriter(target) as writer:
        add_component(writer, "unet")
    record = writer.staging / ".records" / "unet.json"
    record.unlink()
    if content is None:
        record.mkdir()
    else:
        record.write_text(content)
    with BundleWriter(target) as writer:
        assert writer.reusable("unet", SOURCE_SHA, OPTIONS_SHA) is None
        finish_bundle(writer, {"unet": add_component(writer, "unet")})
    Bundle.open(target)


def test_component_of_the_replaced_bundle_is_reused_only_if_whole(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    write_sample(target)
    (target / "Decoder.mlpackage" / WEIGHTS).unlink()
    with BundleWriter(target) as writer:
        assert writer.reusable("decoder", SOURCE_SHA, OPTIONS_SHA) is None
        assert writer.reusable("unet", SOURCE_SHA, OPTIONS_SHA) is not None


def test_reuse_does_not_disturb_the_bundle_in_place(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    write_sample(target)
    with BundleWriter(target) as writer:
        assert writer.reusable("unet", SOURCE_SHA, OPTIONS_SHA) is not None
    Bundle.open(target)


def test_replacement_takes_new_and_keeps_reused_components(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    old = write_sample(target)
    with BundleWriter(target) as writer:
        records = {name: writer.reusable(name, SOURCE_SHA, OPTIONS_SHA) for name in ("text_encoder", "decoder")}
        assert None not in records.values()
        records["unet"] = add_component(writer, "unet", content=b"better ")
        finish_bundle(writer, records)
    new = Bundle.open(target)
    assert (new.package("unet") / WEIGHTS).read_bytes() == b"better unet"
    assert new.manifest.components["decoder"] == old.manifest.components["decoder"]
    assert entries(tmp_path) == {"bundle"}


def test_component_no_longer_asked_for_is_dropped(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    write_sample(target)
    with BundleWriter(target) as writer:
        finish_bundle(writer, {"unet": add_component(writer, "unet")})
    assert entries(target) == {"manifest.json", "UNet.mlpackage", "tokenizer", "golden"}


def _replace(target: Path, content: bytes) -> None:
    (target / "reports").mkdir()
    (target / "reports/verify.json").write_text("{}")
    (target / "note.txt").write_text("mine")
    write_sample(target, content=content)


def test_reports_stay_while_they_speak_of_the_same_files(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    write_sample(target, content=b"same")
    _replace(target, b"same")
    assert (target / "reports/verify.json").is_file()


def test_reports_about_other_weights_are_dropped_and_foreign_files_kept(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    write_sample(target, content=b"old")
    _replace(target, b"new")
    assert not (target / "reports").exists()
    assert (target / "note.txt").read_text() == "mine"


def test_directory_that_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    target = tmp_path / "photos"
    target.mkdir()
    (target / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(UsageError, match="not empty and not a bundle"):
        write_sample(target)
    assert entries(tmp_path) == {"photos"} and (target / "cat.jpg").read_bytes() == b"cat"


def test_bundle_of_a_later_version_is_never_replaced(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "manifest.json").write_text('{"schema_version": 3}')
    with pytest.raises(SfmobileError, match="upgrade"):
        write_sample(target)
    assert (target / "manifest.json").read_text() == '{"schema_version": 3}'


def test_file_and_link_as_target_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        write_sample(tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="symbolic link"):
        write_sample(tmp_path / "link")


HOLD = """
    import sys
    from pathlib import Path
    from sfmobile.bundle.store import BundleWriter
    from tests.bundle.sample import add_component, write_package
    with BundleWriter(Path(sys.argv[1])) as writer:
        add_component(writer, "unet")
        with writer.component("decoder", "Decoder.mlpackage") as path:
            write_package(path)
            print("half-way", flush=True)
            sys.stdin.read()
"""


def test_second_export_into_one_directory_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with child(HOLD, str(target)) as process:
        assert process.stdout.readline() == "half-way\n"
        with pytest.raises(UnavailableError, match=rf"process {process.pid}\) is writing .*bundle"):
            write_sample(target)
        assert (tmp_path / ".bundle.partial/.work/decoder/Decoder.mlpackage").is_dir()


def test_kill_in_the_middle_leaves_no_bundle_and_a_rerun_resumes(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with child(HOLD, str(target)) as process:
        assert process.stdout.readline() == "half-way\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not target.exists()
    with BundleWriter(target) as writer:
        records = {
            "unet": writer.reusable("unet", SOURCE_SHA, OPTIONS_SHA),
            "decoder": writer.reusable("decoder", SOURCE_SHA, OPTIONS_SHA),
        }
        assert records["unet"] is not None and records["decoder"] is None
        assert not (writer.staging / ".work").exists()
        finish_bundle(writer, {"unet": records["unet"], "decoder": add_component(writer, "decoder")})
    Bundle.open(target)
    assert entries(tmp_path) == {"bundle"}


KILLED_COMMIT = """
    import os, signal, sys
    from pathlib import Path
    from tests.bundle.sample import write_sample
    renames = 0
    rename = Path.rename
    def counted(self, target):
        global renames
        result = rename(self, target)
        if self.name in ("bundle", ".bundle.partial"):
            renames += 1
            if renames == int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)
        return result
    Path.rename = counted
    write_sample(Path(sys.argv[1]), content=b"new ")
"""


@pytest.mark.parametrize("killed_after", [1, 2])
def test_kill_between_the_two_renames_of_a_replacement_loses_nothing(tmp_path: Path, killed_after: int) -> None:
    target = tmp_path / "bundle"
    write_sample(target, content=b"old ")
    (target / "note.txt").write_text("mine")
    with child(KILLED_COMMIT, str(target), str(killed_after)) as process:
        assert process.wait(timeout=60) == -signal.SIGKILL
    with BundleWriter(target) as writer:
        assert (target / "note.txt").read_text() == "mine"
        whole = Bundle.open(target)
        expected = b"old unet" if killed_after == 1 else b"new unet"
        assert (whole.package("unet") / WEIGHTS).read_bytes() == expected
        names: tuple[ComponentName, ...] = COMPONENTS
        finish_bundle(writer, {name: writer.reusable(name, SOURCE_SHA, OPTIONS_SHA) for name in names})
    assert (Bundle.open(target).package("unet") / WEIGHTS).read_bytes() == b"new unet"
    assert (target / "note.txt").read_text() == "mine"
    assert entries(tmp_path) == {"bundle"}


def test_full_disk_is_one_sentence_and_finished_components_stay(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with (
        pytest.raises(UnavailableError, match=r"disk became full.*already finished are kept"),
        BundleWriter(target) as writer,
    ):
        record = add_component(writer, "unet")
        with writer.component("decoder", "Decoder.mlpackage") as path:
            write_package(path)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with BundleWriter(target) as writer:
        assert writer.reusable("unet", SOURCE_SHA, OPTIONS_SHA) == record


def test_a_disk_that_fills_up_at_the_manifest_is_the_same_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "bundle"
    write_text = Path.write_text

    def full(path: Path, *arguments: Any, **options: Any) -> int:
        if path.name.startswith(".manifest.json"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write_text(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UnavailableError, match=r"disk became full while writing '.*/bundle'.*are kept"):
        write_sample(target)
    assert not target.exists() and not list(tmp_path.rglob("*manifest.json*"))


def test_too_little_disk_is_found_before_the_work(tmp_path: Path) -> None:
    require_disk(tmp_path / "not/yet/there", 1)
    with pytest.raises(UnavailableError, match=r"needs about 1000000.00 GB of disk but only .* GB are free"):
        require_disk(tmp_path / "not/yet/there", 10**15)


def test_digest_of_a_file_in_pieces_is_that_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    path = tmp_path / "file"
    content = os.urandom(10_000)
    path.write_bytes(content)
    monkeypatch.setattr("sfmobile.files.PIECE_BYTES", 999)
    record = digest_file(path)
    assert (record.bytes, record.sha256) == (10_000, hashlib.sha256(content).hexdigest())
