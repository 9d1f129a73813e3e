"""The bench report that the iOS harness attached to a test run, out of Xcode's result bundle."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, Field

from sfmobile.bench.report import BenchReport, read_report
from sfmobile.errors import ArtifactError, UnavailableError
from sfmobile.files import read_model

# Xcode appends a number and an identifier to the name that the test gave: "bench_0_4F1C….json".
ATTACHMENT_PREFIX = "bench"
TIMEOUT_S = 300


class _Attachment(BaseModel):
    """What a test attached, as xcresulttool lists it: its name, and the file that was exported."""

    name: str = Field(alias="suggestedHumanReadableName")
    file: str = Field(alias="exportedFileName")


class _Test(BaseModel):
    attachments: tuple[_Attachment, ...]


def read_result(path: Path) -> BenchReport:
    """The report in `path`: a bare JSON report, or an .xcresult (Xcode 16 or later) with one attached.

    Performance tests attach the report as far as it is, behind every piece; the newest is taken, and of several of the
    same second the one that holds most. Raises `ArtifactError` if there is none,
    `UnavailableError` for an .xcresult where Xcode's tool is missing.
    """
    if path.suffix != ".xcresult" and not path.is_dir():
        return read_report(path, BenchReport)
    if not path.is_dir():
        raise ArtifactError(f"'{path}' doesn't exist; `make ios-test` writes one.")
    with tempfile.TemporaryDirectory() as folder:
        reports = [read_attached(path, file) for file in exported_reports(path, Path(folder))]
    if not reports:
        raise ArtifactError(
            f"'{path}' has no attachment '{ATTACHMENT_PREFIX}.json'; run the Performance test plan, which attaches one."
        )
    return max(reports, key=lambda report: (report.created_at, _pieces(report)))


def _pieces(report: BenchReport) -> int:
    """How much of the measurement a report holds."""
    details = [one.placement is not None for one in report.components.values()]
    details += [one.cpu_only_median_ms is not None for one in report.components.values()]
    return len(report.components) + (report.loop is not None) + sum(details)


def read_attached(result: Path, file: Path) -> BenchReport:
    """A report exported from `result`; errors name the result, since the exported file is gone when they are read."""
    try:
        return read_report(file, BenchReport)
    except ArtifactError as error:
        raise ArtifactError(f"The report '{file.name}' attached to '{result}' can't be read: {error}") from error


def exported_reports(result: Path, folder: Path) -> Iterator[Path]:
    """Export the attachments of `result` into `folder`; the files of those that are reports."""
    if shutil.which("xcrun") is None:
        raise UnavailableError(
            f"Reading '{result}' needs Xcode's xcresulttool, which only macOS has; import it there, or import the JSON "
            "that the app shares."
        )
    command = ["xcrun", "xcresulttool", "export", "attachments", "--path", str(result), "--output-path", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"xcresulttool didn't finish with '{result}' within {TIMEOUT_S} s.") from error
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise ArtifactError(f"'{result}' can't be read by xcresulttool of Xcode 16 or later: {reason}.")
    what = f"a list of the attachments of '{result}' in a form known here"
    tests = read_model(folder / "manifest.json", tuple[_Test, ...], what, "import the JSON that the app shares")
    for attachment in (attachment for test in tests for attachment in test.attachments):
        if attachment.name.startswith(ATTACHMENT_PREFIX) and attachment.name.endswith(".json"):
            yield folder / Path(attachment.file).name
