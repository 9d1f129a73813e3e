from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from sfmobile.bundle.digest import digest_tree
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.export import kept_outlines
from sfmobile.export.exporter import export_bundle
from sfmobile.export.kept_outlines import kept_outline, outline_key
from sfmobile.export.options import ExportOptions
from sfmobile.export.outline import Outline
from sfmobile.mlpackage import schema

DECODER = ExportOptions(components=("decoder",))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SFMOBILE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "outlines"


def outline(version: int = 7) -> Outline:
    return Outline(schema.model().Model(specificationVersion=version))


def drawn(key: str, made: Outline, **options: bool) -> tuple[Outline, bool]:
    """The outline of `key`, and whether it had to be drawn."""
    calls = []

    def draw() -> Outline:
        calls.append(key)
        return made

    return kept_outline(key, draw, **options), bool(calls)


def test_an_export_again_traces_nothing_and_gives_the_same_bytes(
    tiny_checkpoint: Checkpoint, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = export_bundle(tiny_checkpoint, tmp_path / "first", DECODER)
    assert len(list(cache.iterdir())) == 1

    def traced(*_: object) -> None:
        raise AssertionError("traced again")

    monkeypatch.setattr("sfmobile.export.lowering.trace", traced)
    monkeypatch.setattr("sfmobile.export.outlining.trace", traced)
    again = export_bundle(tiny_checkpoint, tmp_path / "again", DECODER)
    assert digest_tree(again.root, "Decoder.mlpackage") == digest_tree(first.root, "Decoder.mlpackage")
    # Other bits fill the same outline; another target is another program.
    export_bundle(tiny_checkpoint, tmp_path / "bits", replace(DECODER, bits=4))
    with pytest.raises(AssertionError, match="traced again"):
        export_bundle(tiny_checkpoint, tmp_path / "target", replace(DECODER, target="ios18"))
    with pytest.raises(AssertionError, match="traced again"):
        export_bundle(tiny_checkpoint, tmp_path / "bits", replace(DECODER, bits=4, force=True))


@pytest.mark.parametrize("torn", [b"", b"x" * 40, None], ids=["empty", "nonsense", "cut short"])
def test_a_torn_file_is_drawn_anew(cache: Path, torn: bytes | None) -> None:
    assert drawn("a", outline()) == (outline(), True)
    assert drawn("a", outline(9)) == (outline(), False)
    path = cache / "a.outline"
    path.write_bytes(path.read_bytes()[:-1] if torn is None else torn)
    assert drawn("a", outline()) == (outline(), True)
    assert drawn("a", outline(9)) == (outline(), False)


def test_a_folder_that_cant_be_written_is_no_reason_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SFMOBILE_CACHE", str(tmp_path / "file"))
    assert drawn("a", outline()) == (outline(), True)


def test_what_wasnt_used_for_longest_goes_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for age, key in enumerate("abc"):
        drawn(key, outline())
        os.utime(cache / f"{key}.outline", (1000 + age, 1000 + age))
    drawn("a", outline())
    size = (cache / "a.outline").stat().st_size
    monkeypatch.setattr(kept_outlines, "MOST_BYTES", 2 * size)
    drawn("d", outline())
    assert sorted(path.stem for path in cache.iterdir()) == ["a", "d"]


def test_another_version_of_anything_is_another_outline(
    tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(**changed: object) -> str:
        layout = changed.get("layout", tiny_checkpoint.layout("decoder"))
        return outline_key("decoder", layout, "original", "ios17", (), ())

    layout = tiny_checkpoint.autoencoder_layout
    keys = [key(), key(layout=replace(layout, norm_groups=layout.norm_groups * 2))]
    for name in ("_tools", "_code"):
        with monkeypatch.context() as patch:
            patch.setattr(kept_outlines, name, lambda: "another")
            keys.append(key())
    assert len(set(keys)) == 4 and key() == keys[0]
    # What a checkpoint calls it is no other architecture.
    assert key(layout=replace(layout, name="another")) == keys[0]
