from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

import pytest

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.export.exporter import export_bundle
from sfmobile.export.options import ExportOptions
from sfmobile.export.quiet import LOGGERS, quiet


@pytest.mark.parametrize("name", LOGGERS)
def test_remarks_are_dropped_errors_are_heard_and_levels_come_back(name: str, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger(name)
    before = logger.level
    with pytest.raises(KeyError), quiet(), quiet():
        logger.warning("a version was not tested")
        logger.error("this went wrong")
        raise KeyError
    assert [record.getMessage() for record in caplog.records] == ["this went wrong"]
    assert logger.level == before


def test_a_logger_that_its_owner_has_silenced_stays_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL, "coremltools"), quiet():
        logging.getLogger("coremltools").error("this went wrong")
    assert caplog.records == []


def test_only_remarks_on_versions_are_kept_from_who_listens_to_warnings() -> None:
    with pytest.warns(RuntimeWarning, match="overflow") as heard, quiet():
        warnings.warn("overflow", RuntimeWarning, stacklevel=1)
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
        warnings.warn("soon", FutureWarning, stacklevel=1)
    assert len(heard) == 1


def test_what_others_write_on_stderr_is_theirs(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet():
        print("a caller's own bar", file=sys.stderr)
    assert capsys.readouterr().err == "a caller's own bar\n"


@pytest.mark.parametrize("format_", ["mlprogram", "onnx"])
def test_an_export_prints_nothing(
    tiny_checkpoint: Checkpoint, tmp_path: Path, capfd: pytest.CaptureFixture[str], format_: str
) -> None:
    options = ExportOptions(components=("decoder",), format=format_, bits=6 if format_ == "mlprogram" else None)
    export_bundle(tiny_checkpoint, tmp_path / "bundle", options)
    assert capfd.readouterr() == ("", "")
