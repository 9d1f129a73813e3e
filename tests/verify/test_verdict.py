"""`sfmobile.verify`."""

from __future__ import annotations

import sfmobile
from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from tests.log import Log


def test_verify_takes_what_is_open_and_prints_its_verdict_first(
    tiny_bundle: Bundle, tiny_checkpoint: Checkpoint, capsys
) -> None:
    log = Log()
    found = sfmobile.verify(tiny_bundle, source=tiny_checkpoint, prompt="a", steps=1, precision="fp32", observer=log)
    assert found.passed and [one.runtime.precision for one in found.evaluations] == ["fp32"]
    assert str(found).startswith("Passed: every component reaches its gate.\n\n")
    assert "worst PSNR" in str(found)
    assert log.totals["Reference (torch fp32)"] == log.done["Reference (torch fp32)"] == 2
    failed = sfmobile.verify(tiny_bundle, source=tiny_checkpoint, prompt="a", steps=1, precision="fp16", gate=300)
    assert not failed.passed and str(failed).startswith("FAILED: text_encoder ")
    assert capsys.readouterr() == ("", "")
