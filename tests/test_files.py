"""Whole or not at all, by their bytes, with clear errors."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfmobile import files
from sfmobile.errors import ArtifactError, UnavailableError, UsageError

WHAT, MEND = "a shopping list", "write one"


class Shopping(files.StrictModel):
    shop: str
    amounts: tuple[float, ...] = ()


def reading(path: Path) -> str:
    with pytest.raises(ArtifactError) as failed:
        files.read_model(path, Shopping, WHAT, MEND)
    return str(failed.value)


@pytest.mark.parametrize("place", ["folder", "file/b/c.json", "pipe"])
def test_what_could_not_be_written_is_known_before_there_is_anything(place: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError) as early:
        files.require_writable(None, tmp_path / place)
    assert f"'{tmp_path / place}' can't be written (" in str(early.value)
    if place != "file/b/c.json":
        with pytest.raises(UsageError) as late:
            files.write_text(tmp_path / place, "")
        assert str(early.value) == str(late.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_can_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("old")
    files.require_writable(tmp_path / "old.json", tmp_path / "new.json", tmp_path / "a" / "b" / "c.json")
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"] and (tmp_path / "old.json").read_text() == "old"


def test_what_is_written_is_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, Shopping(shop="å", amounts=(1.5,)), durable=True)
    files.write_json(path, {"shop": "b", "amounts": [2]})
    assert files.read_model(path, Shopping, WHAT, MEND) == Shopping(shop="b", amounts=(2,))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_block_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.write_text(path, "old")
    with pytest.raises(KeyError), files.atomic_write(path) as draft:
        draft.write_text("half")
        raise KeyError("x")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_written_file_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        files.write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("place", ["pipe", "folder", "link to the folder"])
def test_what_is_no_file_is_never_replaced_by_one(tmp_path: Path, place: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link to the folder").symlink_to(tmp_path / "folder")
    kind = (tmp_path / place).lstat().st_mode
    with pytest.raises(UsageError, match=f"{place}' can't be written .it is (a directory|no regular file)"):
        files.write_text(tmp_path / place, "x")
    assert (tmp_path / place).lstat().st_mode == kind
    assert not list(tmp_path.glob(".*"))


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / "a").symlink_to(outside)
    files.write_text(tmp_path / "a", "new")
    assert outside.read_text() == "mine"
    assert (tmp_path / "a").read_text() == "new" and not (tmp_path / "a").is_symlink()


def test_drafts_of_a_killed_writer_go_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom sfmobile import files\n"
        "with files.atomic_write(Path(sys.argv[1])) as draft:\n    print(draft.name, flush=True)\n    time.sleep(60)\n"
    )
    killed, living = (
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    )
    assert killed.stdout is not None and living.stdout is not None
    names = {process: process.stdout.readline().strip() for process in (killed, living)}
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    try:
        files.write_text(tmp_path / "a", "x")
        assert {entry.name for entry in tmp_path.iterdir()} == {"a", names[living]}
    finally:
        living.kill()
        living.wait()


def test_a_draft_folder_is_moved_by_its_maker_and_leaves_nothing_else(tmp_path: Path) -> None:
    with files.draft_folder(tmp_path / "made") as draft:
        (draft / "a").write_text("x")
        draft.rename(tmp_path / "made")
    with pytest.raises(KeyError), files.draft_folder(tmp_path / "failed") as draft:
        (draft / "a").write_text("x")
        raise KeyError("x")
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["made", "made/a"]


def test_the_folder_of_a_killed_maker_goes_with_all_that_is_in_it(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom sfmobile import files\n"
        "with files.draft_folder(Path(sys.argv[1])) as draft:\n"
        "    (draft / 'weights').write_text('x')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "made")], check=False)
    assert len(list(tmp_path.glob(".made.*.partial/weights"))) == 1
    with files.draft_folder(tmp_path / "made") as living:
        with files.draft_folder(tmp_path / "made"):
            assert living.is_dir()
        assert list(tmp_path.iterdir()) == [living]


def test_a_link_that_looks_like_a_draft_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("mine")
    (tmp_path / ".a.0123456789ab.partial").symlink_to(tmp_path / "outside")
    files.write_text(tmp_path / "a", "x")
    assert (tmp_path / "outside").read_text() == "mine"


def test_a_full_disk_is_named_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.write_text(path, "old")
    with pytest.raises(UnavailableError, match=r"disk is full.*'.*/a'"), files.atomic_write(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "old"


@pytest.mark.parametrize("name", ["missing/a", "."], ids=["no folder", "a folder"])
def test_where_nothing_can_be_written_the_name_given_is_in_the_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="written") as failed:
        files.write_text(tmp_path / name, "x")
    assert str(tmp_path / name) in str(failed.value)
    assert ".partial" not in str(failed.value)


def test_folders_are_made_or_named(tmp_path: Path) -> None:
    for _ in range(2):
        files.make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=r"file/b' can't be written \(not a directory\)"):
        files.make_folder(tmp_path / "file" / "b")


def test_the_systems_own_errors_are_to_be_had(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.replacing(tmp_path / "missing" / "a"):
        pass
    with pytest.raises(OSError, match="No space"), files.replacing(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_an_error_about_another_file_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.atomic_write(tmp_path / "a"):
        (tmp_path / "other").read_bytes()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"shop": NaN}', "NaN is not a JSON number"),
        (b'{"shop": ' + b"1" * 5000 + b"}", "not JSON"),
        (b'{"shop": "a", "amounts": [1e999]}', "1e999 is beyond the range of numbers"),
        ('{"shop": "a"}'.encode("utf-16-le"), "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"[]", "at its top: it should be an object, found a list"),
        (b"{}", "at shop: it is missing"),
        (b'{"shop": 1}', "at shop: Input should be a valid string, found 1"),
        (b'{"shop": "a", "amounts": 1}', "at amounts: it should be a list, found 1"),
        (b'{"shop": "a", "amounts": [1, "b"]}', r"at amounts\.1: .*found 'b'"),
        (b'{"shop": {"a": "' + b"x" * 1000 + b'"}}', "at shop: Input should be a valid string, found an object; write"),
        (b'{"shop": "a", "color": 1}', "at color: nothing of that name belongs there"),
        (b'{"shop": "a", "co\\nlor' + b"x" * 1000 + b'": 1}', "at co lorx{54}…: "),
    ],
)
def test_what_is_no_record_is_said_in_one_sentence(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    sentence = reading(path)
    assert str(path) in sentence and WHAT in sentence and MEND in sentence and "\n" not in sentence
    with pytest.raises(ArtifactError, match=found):
        files.read_model(path, Shopping, WHAT, MEND)


def test_a_later_version_is_to_be_read_by_a_later_sfmobile(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"version": 3, "shop": 1, "colour": 2}')
    with pytest.raises(ArtifactError, match=r"a' has version 3 but this sfmobile reads 2; upgrade sfmobile\.$"):
        files.read_model(tmp_path / "a", Shopping, WHAT, MEND, version=2)
    for value in ({"version": 2}, {"version": "3"}, {}, [], None):
        files.check_version(value, "version", 2, "it")


def test_any_sentence_can_be_made_another_kind_of_error(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"doesn't exist"):
        files.read_model(tmp_path / "a", Shopping, WHAT, MEND, error=UnavailableError)


def test_what_is_no_regular_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in reading(tmp_path / "pipe")
    assert "a directory" in reading(tmp_path)
    assert "doesn't exist" in reading(tmp_path / "none")


def test_a_file_too_large_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_BYTES", 10)
    (tmp_path / "a").write_text(json.dumps({"shop": "a long name"}))
    assert "bytes" in reading(tmp_path / "a")


@given(st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False) | st.text() | st.none()))
def test_equal_values_have_equal_checksums_whatever_their_order(value: dict[str, object]) -> None:
    turned = dict(reversed(list(value.items())))
    assert files.sha256_of_value(value) == files.sha256_of_value(turned)


def test_a_files_checksum_is_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    told: list[int] = []
    # The published test vector of SHA-256.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256_of_file(tmp_path / "a", told.append) == expected
    assert told == [3]


def test_the_cache_is_where_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("SFMOBILE_CACHE", raising=False)
    assert files.cache_folder("blocks") == tmp_path / "xdg" / "sfmobile" / "blocks"
    monkeypatch.setenv("SFMOBILE_CACHE", str(tmp_path / "own"))
    assert files.cache_folder("blocks") == tmp_path / "own" / "blocks"
    assert files.cache_folder() == tmp_path / "own"


def test_a_figure_is_drawn_in_the_format_of_its_name_or_not_at_all(tmp_path: Path) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure(figsize=(1, 1))
    starts = {"a.svg": b"<?xml", "a.PNG": b"\x89PNG", "a": b"\x89PNG", "a.pdf": b"%PDF"}
    for name, start in starts.items():
        files.write_figure(tmp_path / name, figure, dpi=50)
        assert (tmp_path / name).read_bytes().startswith(start)
    with pytest.raises(UsageError, match=r"a\.txt' can't be drawn as 'txt'; expected a name that ends in \.png"):
        files.write_figure(tmp_path / "a.txt", figure)
    assert {path.name for path in tmp_path.iterdir()} == set(starts)
