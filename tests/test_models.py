from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sfmobile import models
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.hub import open_checkpoint
from sfmobile.errors import ArtifactError, UnavailableError
from sfmobile.models import MODELS_VARIABLE, find_checkpoint, find_recipe, models_folder
from tests.tiny import REPOSITORY


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MODELS_VARIABLE, raising=False)


def folder_of_models(root: Path) -> Path:
    (root / "glyph").mkdir(parents=True)
    return root


def test_a_checkouts_models_are_found() -> None:
    assert models_folder() == REPOSITORY / "models"


def test_packaged_models_go_before_a_checkouts_and_the_variable_before_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "PACKAGED", folder_of_models(tmp_path / "packaged"))
    assert models_folder() == tmp_path / "packaged"
    monkeypatch.setenv(MODELS_VARIABLE, str(folder_of_models(tmp_path / "given")))
    assert models_folder() == tmp_path / "given"


def test_a_variable_that_names_something_else_is_an_error_even_where_there_are_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(
        UnavailableError, match=rf"nowhere', which {MODELS_VARIABLE} names, doesn't hold .* unset it\.$"
    ):
        models_folder()


def test_an_installation_without_models_says_where_it_looked_and_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "PACKAGED", tmp_path / "packaged")
    monkeypatch.setattr(models, "CHECKOUT", tmp_path / "checkout")
    with pytest.raises(UnavailableError, match=f"packaged' nor in .*checkout'; .* with {MODELS_VARIABLE}"):
        models_folder()


def test_the_built_in_model_and_its_recipes_go_by_name_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint("glyph").root == REPOSITORY / "models" / "glyph"
    assert find_recipe(Path("glyph-128")) == REPOSITORY / "models" / "recipes" / "glyph-128"


def test_what_is_there_goes_before_what_comes_with_sfmobile(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_checkpoint.root, tmp_path / "glyph")
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint("glyph").unet_layout == tiny_checkpoint.unet_layout


@pytest.mark.parametrize("name", ["glyphs", "recipes", "dual-encoder", "models/glyph", "/nowhere/glyph"])
def test_any_other_name_stays_a_path(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint(Path(name)) == Path(name)
    with pytest.raises(ArtifactError, match=f"^{name} doesn't exist; expected a diffusers-format directory"):
        Checkpoint.open(Path(name))
