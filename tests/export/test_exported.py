"""`sfmobile.export`: the command's options as keywords, a bundle that says what it took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import sfmobile
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.errors import UsageError
from tests.log import Log


def test_export_takes_an_opened_checkpoint_and_says_what_it_made(
    tiny_checkpoint: Checkpoint, tmp_path: Path, capsys
) -> None:
    log = Log()
    options: dict[str, Any] = {"bits": "none", "component": "decoder", "golden": False}
    bundle = sfmobile.export(tiny_checkpoint, tmp_path / "bundle", **options, observer=log)
    assert list(bundle.manifest.components) == ["decoder"] == list(bundle.made)
    assert bundle.manifest.components["decoder"].compression is None and not bundle.made["decoder"].reused
    assert "decoder: writing" in log.totals and "decoder: checksums" in log.totals
    assert any(note.startswith("decoder: ") and "built in" in note for note in log.notes)
    assert "decoder" in str(bundle) and "float16" in str(bundle)
    # What may be reused is hashed first.
    log = Log()
    again = sfmobile.export(str(tiny_checkpoint.root), str(tmp_path / "bundle"), **options, observer=log)
    assert log.totals["decoder: hashing the source"] == log.done["decoder: hashing the source"] > 0
    assert again.made["decoder"].reused and again.manifest == bundle.manifest
    # Nothing is printed or drawn unasked.
    assert capsys.readouterr() == ("", "")


def test_latent_sizes_are_one_or_several(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    options: dict[str, Any] = {"bits": "none", "component": ["decoder"], "golden": False, "target": "ios18"}
    one = sfmobile.export(tiny_checkpoint, tmp_path / "one", latent_size=(8, 16), **options)
    assert (one.manifest.latents.height, one.manifest.latents.width) == (8, 16)
    with pytest.raises(UsageError, match="need packages of several functions"):
        sfmobile.export(tiny_checkpoint, tmp_path / "two", latent_size=[(8, 8), (8, 16)], **options)
