from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sfmobile.bundle import directory, store
from sfmobile.bundle.digest import digest_file
from sfmobile.bundle.directory import Bundle, BundleError, read_manifest
from sfmobile.bundle.pipeline import TEXT_TO_IMAGE
from sfmobile.bundle.store import BundleWriter, require_disk
from sfmobile.errors import SfmobileError, UnavailableError, UsageError
from sfmobile.files import json_text
from tests.bundle.sample import OPTIONS_SHA, SOURCE_SHA, add_component, finish_bundle, write_package, write_sample
from tests.crash import crash_points

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
        for name in TEXT_TO_IMAGE:
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
    with pytest.raises(UsageError, match="not empty and not a whole bundle"):
        write_sample(target)
    assert entries(tmp_path) == {"photos"} and (target / "cat.jpg").read_bytes() == b"cat"


@pytest.mark.parametrize("content", ['{"name": "A web app", "start_url": "/"}', "[]", "{", None])
def test_a_directory_with_some_manifest_is_not_taken_for_a_bundle(tmp_path: Path, content: str | None) -> None:
    target = tmp_path / "app"
    (target / "tokenizer").mkdir(parents=True)
    (target / "tokenizer" / "mine.txt").write_text("mine")
    if content is None:
        # A bundle that was damaged: whose files are whose can't be told any more.
        write_sample(tmp_path / "other")
        content = (tmp_path / "other" / "manifest.json").read_text()[:-10]
        shutil.rmtree(tmp_path / "other")
    (target / "manifest.json").write_text(content)
    with pytest.raises(UsageError, match="not empty and not a whole bundle; choose another"):
        write_sample(target)
    assert (target / "manifest.json").read_text() == content and (target / "tokenizer" / "mine.txt").is_file()
    assert entries(tmp_path) == {"app"}


def test_files_in_the_bundles_own_folders_that_it_does_not_record_are_kept(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    write_sample(target, content=b"old")
    notes = ["tokenizer/note.txt", "reports/note.txt", "reports/phone.json", "UNet.mlpackage/note.txt", "mine/note.txt"]
    for name in notes:
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_text(name)
    (target / "reports/bench.json").write_text("{}")
    write_sample(target, content=b"new")
    assert [(target / name).read_text() for name in notes] == notes
    assert not (target / "reports/bench.json").exists()
    assert entries(tmp_path) == {"bundle"}


@pytest.mark.parametrize("taken", ["Decoder.mlpackage", "golden"])
def test_a_file_of_ones_own_is_not_replaced_by_one_of_the_new_bundle(tmp_path: Path, taken: str) -> None:
    target = tmp_path / "bundle"
    with BundleWriter(target) as writer:
        finish_bundle(writer, {"unet": add_component(writer, "unet")})
    shutil.rmtree(target / taken, ignore_errors=True)
    if taken == "golden":
        manifest = read_manifest(target).model_copy(update={"golden": None})
        (target / "manifest.json").write_text(json_text(manifest))
    (target / taken).write_text("mine")
    with pytest.raises(UsageError, match=rf"'.*{taken}' is not of the bundle that is replaced.*move it away and run"):
        write_sample(target)
    assert (target / taken).read_text() == "mine"
    (target / taken).unlink()
    with BundleWriter(target) as writer:
        assert all(writer.reusable(name, SOURCE_SHA, OPTIONS_SHA) for name in TEXT_TO_IMAGE)


@pytest.mark.parametrize("name", [".bundle.lock", ".bundle.partial", ".bundle.partial/.records", ".bundle.old"])
@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "file"])
def test_links_and_pipes_under_names_that_can_be_guessed_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    if kind == "file" and name.endswith("lock"):
        pytest.skip("that is what a lock is")
    outside, place = tmp_path / "outside", tmp_path / "here" / name
    place.parent.mkdir(parents=True)
    if kind == "hard link":
        outside.write_text("mine")
        place.hardlink_to(outside)
    elif kind == "link":
        outside.mkdir()
        (outside / "mine.json").write_text("mine")
        place.symlink_to(outside)
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.write_text("mine")
    with pytest.raises(UsageError, match=r"is not what an export leaves behind"):
        write_sample(tmp_path / "here" / "bundle")
    if kind == "link":
        assert (outside / "mine.json").read_text() == "mine"
    if kind == "hard link":
        assert outside.read_text() == "mine"
    assert not (tmp_path / "here" / "bundle").exists()


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_reader_sees_the_old_bundle_or_the_new_or_is_told_to_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    target = tmp_path / "bundle"
    write_sample(target, content=b"old")
    if not exchanges:
        monkeypatch.setattr(store, "exchange", lambda one, other: False)
    seen = []

    def look(event: str, arguments: Any) -> None:
        if event == "os.rename" and looking and str(tmp_path) in str(arguments[0]):
            try:
                Bundle.open(target)
                seen.append("whole")
            except BundleError as error:
                seen.append(str(error))

    looking = True
    sys.addaudithook(look)
    write_sample(target, content=b"new")
    looking = False
    told = [sentence for sentence in seen if sentence != "whole"]
    assert len(seen) > 6 and len(told) == (0 if exchanges else 1)
    assert all("is being replaced by an export at this moment; try again." in sentence for sentence in told)


def test_what_changes_while_it_is_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "bundle"
    write_sample(target, content=b"old")
    check = directory.check_file

    def late(*arguments: Any) -> None:
        monkeypatch.setattr(directory, "check_file", check)
        write_sample(target, content=b"new")
        check(*arguments)

    monkeypatch.setattr(directory, "check_file", late)
    with pytest.raises(BundleError, match=r"bundle' was replaced while it was read; try again"):
        Bundle.open(target)
    Bundle.open(target)


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


@pytest.mark.parametrize(("exchanges", "every"), [(True, 1), (False, 3)])
def test_a_kill_at_any_file_operation_of_a_replacement_loses_nothing(
    tmp_path: Path, exchanges: bool, every: int
) -> None:
    def write(folder: Path, content: bytes) -> None:
        with BundleWriter(folder / "bundle") as writer:
            finish_bundle(writer, {"unet": add_component(writer, "unet", content)})

    def prepare(folder: Path) -> None:
        write(folder, b"old ")
        for note in ("note.txt", "tokenizer/note.txt"):
            (folder / "bundle" / note).write_text("mine")

    def replace(folder: Path) -> None:
        if not exchanges:
            store.exchange = lambda one, other: False
        write(folder, b"new ")

    ends = crash_points(tmp_path, prepare, replace, every=every)
    assert len(ends) * every > 40
    for end in ends:
        bundle = end.folder / "bundle"
        with BundleWriter(bundle):
            content = (Bundle.open(bundle).package("unet") / WEIGHTS).read_bytes()
        assert content in (b"old unet", b"new unet"), end
        write(end.folder, b"new ")
        assert (Bundle.open(bundle).package("unet") / WEIGHTS).read_bytes() == b"new unet", end
        assert (bundle / "note.txt").read_text() == (bundle / "tokenizer/note.txt").read_text() == "mine", end
        assert entries(end.folder) == {"bundle"}, end


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
