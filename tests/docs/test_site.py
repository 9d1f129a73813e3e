from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import sfmobile
from sfmobile.cli.commands import COMMANDS
from tests.tiny import REPOSITORY


def test_the_site_builds_and_every_page_is_in_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    pages = {path.parent.name for path in (tmp_path / "site").glob("*/index.html")}
    assert pages >= {path.stem for path in (REPOSITORY / "docs").glob("*.md") if path.stem != "house"}
    reference = (tmp_path / "site" / "reference" / "index.html").read_text(encoding="utf-8")
    assert all(f"sfmobile {name}" in reference for name in COMMANDS)
    assert all(f"sfmobile.{name}" in reference for name in sfmobile.__all__ if name != "errors")
    # Nothing is fetched from elsewhere by whoever reads it.
    page = (tmp_path / "site" / "start" / "index.html").read_text(encoding="utf-8")
    assert "fonts.googleapis" not in page and 'src="http' not in page
