"""One prediction from files, as `sfmobile run` makes it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfmobile.errors import ArtifactError, UsageError
from sfmobile.runtime.run import run_model
from tests.cli.run import run
from tests.runtime.packages import classifier_model, picture_model, sum_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and a picture that they take."""
    folder = tmp_path_factory.mktemp("run")
    sum_model(folder / "sum.mlpackage")
    picture_model(folder / "picture.mlpackage")
    classifier_model(folder / "pets.mlpackage")
    Image.new("RGB", (6, 4), (255, 0, 51)).save(folder / "red.png")
    Image.new("RGB", (60, 40), (255, 0, 51)).save(folder / "large.png")
    np.save(folder / "x.npy", np.arange(6, dtype=np.float32).reshape(2, 3))
    return folder


def test_inputs_are_files_numbers_and_lists(folder: Path) -> None:
    x = np.load(folder / "x.npy")
    found = run_model(folder / "sum.mlpackage", [f"x={folder / 'x.npy'}", "y=[[1,2,3],[4,5,6.5]]"])
    assert np.array_equal(found.outputs["sum"], x + 2 * np.array([[1, 2, 3], [4, 5, 6.5]]))
    red = run_model(folder / "picture.mlpackage", [f"image={folder / 'red.png'}"])
    np.testing.assert_allclose(red.outputs["mean"], [[1, 0, 0.2]], atol=1e-6)


def test_a_picture_is_resized_only_if_asked(folder: Path) -> None:
    text = f"image={folder / 'large.png'}"
    with pytest.raises(UsageError, match="is a picture of 60x40; expected 6x4"):
        run_model(folder / "picture.mlpackage", [text])
    found = run_model(folder / "picture.mlpackage", [text], resize=True)
    np.testing.assert_allclose(found.outputs["mean"], [[1, 0, 0.2]], atol=1e-6)


@pytest.mark.parametrize(
    ("text", "error", "sentence"),
    [
        ("x", UsageError, "--input x is no name=value; expected e.g. x=cat.png"),
        ("z=1", UsageError, "has no input 'z'; it takes x, y"),
        ("x=nothing.npy", UsageError, "names neither a file nor a number"),
        ("x={folder}/broken.npy", ArtifactError, "is no array that numpy can read"),
        ("x={folder}/broken.png", ArtifactError, "is no picture that can be read"),
        ("x={folder}/objects.npy", ArtifactError, "is no array that numpy can read"),
    ],
)
def test_what_can_not_be_an_input(text: str, error: type[Exception], sentence: str, folder: Path) -> None:
    (folder / "broken.npy").write_bytes(b"\x93NUMPY\x01\x00junk")
    (folder / "broken.png").write_bytes((folder / "red.png").read_bytes()[:20])
    np.save(folder / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(error, match=sentence):
        run_model(folder / "sum.mlpackage", [text.format(folder=folder)])


def test_a_bomb_is_no_picture(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ArtifactError, match="is too large a picture"):
        run_model(folder / "picture.mlpackage", [f"image={folder / 'large.png'}"], resize=True)


def test_the_command_compares_saves_and_gates(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.load(folder / "x.npy")
    np.savez(tmp_path / "torch.npz", sum=x + 1.001, flat=x.reshape(-1))
    arguments = ["run", folder / "sum.mlpackage", "--input", f"x={folder / 'x.npy'}"]
    compare = ["--compare", tmp_path / "torch.npz", "--min-psnr"]
    shown = run(capsys, *arguments, *compare, "60", "-o", tmp_path / "out")
    assert shown.code == 0 and "identical" in shown.out and "75" in shown.out
    assert np.array_equal(np.load(tmp_path / "out" / "sum.npy"), x + 1)
    failed = run(capsys, *arguments, *compare, "90", "--json")
    assert failed.code == 1 and "Output 'sum' of sum.mlpackage is 75" in failed.sentence
    record = json.loads(failed.out)
    assert record["outputs"]["flat"]["identical"] and record["outputs"]["sum"]["psnr_db"] == pytest.approx(75.6, abs=1)
    assert record["outputs"]["flat"]["values"] == [0, 1, 2, 3, 4, 5] and record["runtime"] == "mil fp32"


def test_the_command_shows_classes_and_writes_pictures(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = run(capsys, "run", folder / "pets.mlpackage", "--input", "x=[[0,0,0,0]]", "-o", tmp_path)
    assert shown.code == 0 and "'dog'" in shown.out and "owl" in shown.out
    assert json.loads((tmp_path / "classLabel.json").read_text()) == "dog"
    run(capsys, "run", folder / "picture.mlpackage", "--input", f"image={folder / 'red.png'}", "-o", tmp_path)
    with Image.open(tmp_path / "swapped.png") as picture:
        assert picture.size == (6, 4)


def test_what_there_is_nothing_to_compare_with(folder: Path, tmp_path: Path) -> None:
    inputs = [f"x={folder / 'x.npy'}"]
    np.savez(tmp_path / "other.npz", product=np.zeros(3))
    with pytest.raises(UsageError, match="holds 'product', which is no array that the model gives; it gives sum, flat"):
        run_model(folder / "sum.mlpackage", inputs, compare=tmp_path / "other.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK")
    with pytest.raises(ArtifactError, match="can't be read"):
        run_model(folder / "sum.mlpackage", inputs, compare=tmp_path / "broken.npz")


# What Windows hasn't. The name of the system is changed behind the libraries, which look at it themselves.
ELSEWHERE = """
import asyncio, ctypes, importlib.metadata, multiprocessing, os, sys, sysconfig, zoneinfo
import PIL.Image, google.protobuf, numpy, packaging.requirements, psutil, pydantic, rich.console, rich.progress
import rich.table, torch.nn, typer

sysconfig.get_config_vars()
sys.platform = "win32"
sys.modules["fcntl"] = None
for name in ("O_NOFOLLOW", "O_DIRECTORY", "O_NONBLOCK"):
    delattr(os, name)
from sfmobile.cli.main import main
main(sys.argv[1:])
"""


def test_the_command_needs_nothing_that_windows_has_not(folder: Path, tmp_path: Path) -> None:
    arguments = ["run", str(folder / "sum.mlpackage"), "--input", "x=[[1,2,3],[4,5,6]]", "-o", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "sum.npy")[1].tolist() == [5, 6, 7]
