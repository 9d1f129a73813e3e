from __future__ import annotations

import shutil
from pathlib import Path

from sfmobile.bundle.directory import Bundle
from tests.cli.run import run


def test_a_page_is_written_into_the_bundle_or_where_it_is_wanted(
    tiny_bundle: Bundle, tiny_palettized_bundle: Bundle, tmp_path: Path, capsys
) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(tiny_palettized_bundle.root, root)
    outcome = run(capsys, "page", root, "--beside", tiny_bundle.root)
    assert outcome.code == 0, outcome.err
    page = root / "reports" / "report.html"
    assert outcome.out.strip() == str(page)
    assert page.read_text().count("<img") == 3
    # The bundle is as whole as before: reports are no part of its checksums.
    assert Bundle.open(root, check="full")
    wanted = tmp_path / "page.html"
    assert run(capsys, "page", "-o", wanted, root, "--no-draw").code == 0
    assert wanted.read_text().count("<img") == 1


def test_what_it_was_called_before_works_with_a_note(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    for words in (("report",), ("report", "page")):
        outcome = run(capsys, *words, tiny_bundle.root, "--no-run", "-o", tmp_path / "page.html")
        assert outcome.code == 0 and "--no-run is now --no-draw" in outcome.err
        assert ("is now `page BUNDLE`" in outcome.err) is (words == ("report",))


def test_import_is_no_bundle(tmp_path: Path, capsys) -> None:
    outcome = run(capsys, "report", "import", tmp_path / "absent.xcresult")
    assert outcome.code == 4 and "absent.xcresult" in outcome.sentence


def test_what_is_no_bundle_or_no_device_is_named(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    outcome = run(capsys, "page", tmp_path / "absent")
    assert outcome.code == 4 and "absent" in outcome.sentence
    outcome = run(capsys, "page", tiny_bundle.root, "--no-draw", "--device", "iphone", "-o", tmp_path / "page.html")
    assert outcome.code == 2 and "the nearest are" in outcome.sentence
    assert not (tmp_path / "page.html").exists()
