from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from sfmobile.errors import ArtifactError
from sfmobile.train.data import __main__ as command
from sfmobile.train.data import sprites as module
from sfmobile.train.data.artwork import STYLES
from sfmobile.train.data.packages import Package
from sfmobile.train.data.sprites import build_cache, cache_key, find_cache, measure_colours, read_index
from tests.train.data.conftest import drawings

Tarballs = tuple[Path, tuple[Package, ...]]


def test_the_cache_holds_one_record_and_one_picture_a_drawing(index: Path):
    sprites, data = read_index(index)
    pixels = load_file(data)["pixels"]
    assert pixels.shape == (len(sprites), 4, 128, 128) and pixels.dtype == np.uint8
    assert {(sprite.style, sprite.hexcode) for sprite in sprites} == {(s, code) for s in STYLES for code in drawings()}
    # Premultiplied: no channel exceeds alpha.
    assert (pixels[:, :3] <= pixels[:, 3:]).all()


def test_colours_are_measured_from_the_pixels(index: Path):
    by_code = {sprite.hexcode: sprite for sprite in read_index(index)[0] if sprite.style == "flat"}
    assert by_code["1F34E"].colour == "red" and by_code["1F433"].colour == "blue" and by_code["2B1B"].colour == "black"
    assert by_code["1F34E"].hue is not None and min(by_code["1F34E"].hue, 360 - by_code["1F34E"].hue) < 1
    assert "purple" in by_code["1F34E"].recolours
    # Black has no hue; a hand isn't recoloured.
    assert by_code["2B1B"].hue is None and by_code["1F44B"].hue is None and by_code["1F44B"].recolours == ()


def test_an_empty_drawing_has_no_colour():
    measure = measure_colours(np.zeros((4, 8, 8), np.uint8))
    assert measure.colour is None and measure.coverage == 0


def test_processes_make_the_same_cache(tarballs: Tarballs, index: Path, tmp_path: Path):
    directory, pins = tarballs
    calls: list[tuple[int, int]] = []
    again = build_cache(
        directory, tmp_path, packages=pins, workers=2, progress=lambda done, total: calls.append((done, total))
    )
    assert again.read_bytes() == index.read_bytes()
    total = len(STYLES) * len(drawings())
    assert calls == [(number + 1, total) for number in range(total)]


def test_a_complete_cache_is_kept_and_a_damaged_one_mended(tarballs: Tarballs, tmp_path: Path):
    directory, pins = tarballs
    index = build_cache(directory, tmp_path, packages=pins, workers=1)
    good = index.with_suffix(".safetensors").read_bytes()
    index.with_suffix(".safetensors").write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="sha256 differs"):
        read_index(index)
    build_cache(directory, tmp_path, packages=pins, workers=1)
    assert index.with_suffix(".safetensors").read_bytes() == good
    # Complete: the sources aren't even opened.
    assert build_cache(tmp_path / "nowhere", tmp_path, packages=pins) == index
    index.with_suffix(".safetensors").unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        read_index(index)


def test_a_cache_of_another_version_is_never_read_by_mistake(
    tarballs: Tarballs, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _, pins = tarballs
    record = json.loads(index.read_text("utf-8"))
    old = tmp_path / index.name
    old.write_text(json.dumps({**record, "cache_version": 0}), encoding="utf-8")
    with pytest.raises(ArtifactError, match="version 0, expected"):
        read_index(old)
    assert cache_key(pins) != cache_key([replace(pins[0], members_sha256="0" * 64), *pins[1:]])
    monkeypatch.setattr(module, "CACHE_VERSION", 99)
    with pytest.raises(ArtifactError, match=f"found {index.name}, of another version"):
        find_cache(index.parent, pins)


@pytest.mark.parametrize("text", ["", "{}", '{"cache_version": 3, "sprites": [{}]}'])
def test_an_index_that_is_none_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "sprites-x.json"
    path.write_text(text)
    with pytest.raises(ArtifactError, match=r"expected a sprite cache's index|is not a sprite cache's index at"):
        read_index(path)


def test_a_missing_cache_names_the_command_that_makes_it(tmp_path: Path):
    with pytest.raises(ArtifactError, match=r"found none; build it with `sfmobile train data`"):
        find_cache(tmp_path)
    with pytest.raises(ArtifactError, match="doesn't exist: expected a sprite cache's index; build it again with"):
        read_index(tmp_path / "none.json")


def test_the_bare_command_reports_an_error_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert command.main([str(tmp_path), str(tmp_path / "cache")]) == 4
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "emojibase-data-17.0.0.tgz is missing" in error and error.count("\n") == 1
