"""`sfmobile compress search|apply` as a user runs it, and what users get wrong."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.compress.recipe import Recipe, compressible_layers
from sfmobile.recipes.signal import StoredNetwork
from sfmobile.runtime.opening import open_runtime
from sfmobile.signal import psnr
from sfmobile.testing import write_synthetic_checkpoint
from tests.cli.run import Outcome, run
from tests.tiny import TINY_AUTOENCODER, TINY_LATENT_SIZE, TINY_TEXT_ENCODER, TINY_UNET

FAST = ("--prompt", "a red apple", "--steps", "2", "--probes", "1")
KILLED = """
import os, signal, sys
from sfmobile.cli.main import main
from sfmobile.export import {module}

def end(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

{module}.{name} = end
main(sys.argv[1:])
"""


def search(capsys: pytest.CaptureFixture[str], checkpoint: Checkpoint, output: Path, *options: object) -> Outcome:
    return run(capsys, "compress", "search", checkpoint.root, "-o", output, *FAST, *options)


@pytest.fixture(scope="module")
def recipe(tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe for the tiny UNet, written by hand: layers take turns at 2, 4, 8 and 16 bits."""
    path: Path = tmp_path_factory.mktemp("recipes") / "recipe.json"
    shapes = {key: tuple(weight.shape) for key, weight in tiny_checkpoint.state_dict("unet").items()}
    layers = {name: {"bits": (2, 4, 8, 16)[place % 4]} for place, name in enumerate(compressible_layers(shapes))}
    path.write_text(json.dumps({"default": {"bits": 6}, "components": {"unet": {"layers": layers}}}))
    return path


def changed(recipe: Path, folder: Path, **unet: Any) -> Path:
    """`recipe` with other values in the UNet's part."""
    content = json.loads(recipe.read_text())
    content["components"]["unet"] |= unet
    path = folder / "changed.json"
    path.write_text(json.dumps(content))
    return path


def assert_holds(bundle: Bundle, checkpoint: Checkpoint, recipe: Path) -> None:
    """What the bundle's UNet computes is what torch computes with the weights that `recipe` stores."""
    network = StoredNetwork(checkpoint, "unet")
    read = Recipe.read(recipe)
    network.store({name: read.layer("unet", name) for name in network.shapes})
    rng = np.random.default_rng(0)
    records = bundle.manifest.components["unet"].inputs
    inputs = {record.name: rng.standard_normal(record.shape, dtype=np.float32) for record in records}
    with open_runtime("mil", bundle, precision="fp32").load("unet") as unet:
        found = unet.predict(inputs)["model_output"]
    assert psnr(network.predict(inputs)["model_output"], found) > 75


def no_leftovers(folder: Path) -> bool:
    return not [path.name for path in folder.iterdir() if path.name.startswith((".bundle", "bundle"))]


def test_search_writes_a_recipe_a_plot_and_a_table(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    found = search(capsys, tiny_checkpoint, tmp_path / "r.json", "--same-size-as", 4, "--plot", tmp_path / "p.png")
    assert found.code == 0
    for words in ("4 bits", "recipe", "PSNR of latents", "of single calls", "At the size of 4 bits: +"):
        assert words in found.out
    for words in ("Plot: ", "Recipe: ", "sfmobile compress apply"):
        assert words in found.err
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    read = Recipe.read(tmp_path / "r.json")
    assert read.default.bits == 6 and set(read.components) == {"unet"}
    shapes = {key: tuple(weight.shape) for key, weight in tiny_checkpoint.state_dict("unet").items()}
    read.check_component("unet", compressible_layers(shapes))


def test_search_as_json_is_json_alone_on_stdout(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    options = ("--component", "decoder", "--component", "unet", "--target", "ios18", "--group-size", 16, "--json")
    found = search(capsys, tiny_checkpoint, tmp_path / "r.json", *options)
    result = json.loads(found.out)
    assert found.code == 0 and [part["component"] for part in result["components"]] == ["decoder", "unet"]
    for part in result["components"]:
        six = next(point for point in part["uniform"] if point["label"] == "6 bits")
        assert part["recipe"]["final_db"] >= six["final_db"]
        assert part["recipe"]["bytes"] <= six["bytes"]
    assert set(Recipe.read(tmp_path / "r.json").components) == {"decoder", "unet"}


def test_a_searched_recipe_applies_to_another_checkpoint_of_the_architecture(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    recipe, bundle = tmp_path / "r.json", tmp_path / "bundle"
    assert search(capsys, tiny_checkpoint, recipe, "--signal", 25).code == 0
    other = write_tiny(tmp_path / "other", seed=1)
    found = run(capsys, "compress", "apply", other.root, "--recipe", recipe, "-o", bundle, "--no-golden", "--json")
    assert found.code == 0 and set(json.loads(found.out)["components"]) == {"text_encoder", "unet", "decoder"}
    assert_holds(Bundle.open(bundle), other, recipe)


def test_apply_builds_a_bundle_anew_from_its_checkpoint_and_it_verifies(
    capsys: pytest.CaptureFixture[str],
    tiny_palettized_bundle: Bundle,
    tiny_checkpoint: Checkpoint,
    recipe: Path,
    tmp_path: Path,
) -> None:
    made = tmp_path / "bundle"
    assert run(capsys, "compress", "apply", tiny_palettized_bundle.root, "--recipe", recipe, "-o", made).code == 0
    bundle = Bundle.open(made)
    assert_holds(bundle, tiny_checkpoint, recipe)
    record, before = bundle.manifest.components["unet"], tiny_palettized_bundle.manifest.components["unet"]
    assert (record.attention, bundle.manifest.guidance.batch) == (before.attention, 1)
    assert record.compression is not None and record.compression.recipe_sha256 is not None
    # A tiny random network at 2 bits is far below any sensible gate; what counts is that all of it is compared.
    verified = run(capsys, "verify", made, "--json", "--gate", 5)
    assert verified.code == 0, verified.err


def write_tiny(root: Path, seed: int) -> Checkpoint:
    write_synthetic_checkpoint(
        root,
        unet_layout=TINY_UNET,
        text_encoder_layout=TINY_TEXT_ENCODER,
        autoencoder_layout=TINY_AUTOENCODER,
        latent_size=TINY_LATENT_SIZE,
        seed=seed,
    )
    return Checkpoint.open(root)


@pytest.mark.parametrize("command", [("compress", "apply"), ("export",)])
@pytest.mark.parametrize(
    ("unet", "code", "sentence"),
    [
        ({"architecture": "0" * 64}, 2, "made for another architecture"),
        ({"layers": {"mid_block.nowhere": {"bits": 4}}}, 2, "names layer 'mid_block.nowhere' but unet has no weight"),
        (
            {"layers": {"time_embedding.linear_2": {"bits": 5}}},
            4,
            "components.unet.layers.time_embedding.linear_2: 5 bits can't be stored",
        ),
        (
            {"layers": {"time_embedding.linear_2": {"bits": "six"}}},
            4,
            "components.unet.layers.time_embedding.linear_2.bits",
        ),
        (
            {"layers": {"time_embedding.linear_2": {"bits": 3}}},
            2,
            "3 bits need target ios18 (unet time_embedding.linear_2), found ios17",
        ),
        (
            {"layers": {"time_embedding.linear_2": {"bits": 4, "group_size": 8}}},
            2,
            "need target ios18 (unet time_embedding.linear_2), found ios17",
        ),
    ],
    ids=["architecture", "unknown layer", "5 bits", "no number", "3 bits", "groups"],
)
def test_a_recipe_that_does_not_fit_is_refused_before_any_work(
    command: tuple[str, ...],
    unet: dict[str, Any],
    code: int,
    sentence: str,
    recipe: Path,
    tiny_checkpoint: Checkpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = changed(recipe, tmp_path, **unet)
    outcome = run(capsys, *command, tiny_checkpoint.root, "--recipe", broken, "-o", tmp_path / "bundle")
    assert (outcome.code, outcome.out) == (code, "") and sentence in outcome.sentence
    assert no_leftovers(tmp_path)


def test_groups_that_do_not_divide_the_channels_are_refused(
    recipe: Path, tiny_checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = changed(recipe, tmp_path, layers={"time_embedding.linear_2": {"bits": 4, "group_size": 24}})
    options = ("--recipe", broken, "-o", tmp_path / "bundle", "--target", "ios18")
    outcome = run(capsys, "compress", "apply", tiny_checkpoint.root, *options)
    assert outcome.code == 2 and "groups of 24 channels, which don't divide its 128" in outcome.sentence
    assert no_leftovers(tmp_path)


def test_a_searched_recipe_is_refused_by_another_architecture(
    capsys: pytest.CaptureFixture[str],
    tiny_checkpoint: Checkpoint,
    tiny_snapfusion_checkpoint: Checkpoint,
    tmp_path: Path,
) -> None:
    assert search(capsys, tiny_checkpoint, tmp_path / "r.json", "--signal", 20).code == 0
    options = ("--recipe", tmp_path / "r.json", "-o", tmp_path / "bundle")
    outcome = run(capsys, "compress", "apply", tiny_snapfusion_checkpoint.root, *options)
    assert outcome.code == 2 and "unet was made for another architecture" in outcome.sentence
    assert no_leftovers(tmp_path)


def test_too_little_disk_for_a_recipe_s_bundle_is_said_before_the_work(
    recipe: Path,
    tiny_checkpoint: Checkpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 100_000))

    def work(*_: object, **__: object) -> None:
        raise AssertionError("work began")

    monkeypatch.setattr("sfmobile.export.build.ComponentBuild.complete", work)
    options = ("--recipe", recipe, "-o", tmp_path / "bundle")
    outcome = run(capsys, "compress", "apply", tiny_checkpoint.root, *options)
    assert outcome.code == 3 and "of disk but only 0.00 GB are free" in outcome.sentence
    assert no_leftovers(tmp_path)


@pytest.mark.parametrize(
    ("module", "name"),
    [("chunk", "write_chunks"), ("stored_weights", "check_stored")],
    ids=["compressed and not cut", "cut and not checked"],
)
def test_a_kill_around_chunking_and_compression_leaves_nothing_and_a_rerun_completes(
    module: str,
    name: str,
    recipe: Path,
    tiny_checkpoint: Checkpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = tmp_path / "bundle"
    arguments = [
        "export", str(tiny_checkpoint.root), "-o", str(bundle), "--recipe", str(recipe), "--chunks", "2",
        "--component", "unet", "--no-golden",
    ]  # fmt: skip
    script = KILLED.format(module=module, name=name)
    killed = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not bundle.exists()
    outcome = run(capsys, *arguments, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["components"]["unet"]["reused"] is False
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    opened = Bundle.open(bundle)
    assert len(opened.manifest.components["unet"].chunks) == 2
    assert_holds(opened, tiny_checkpoint, recipe)


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--signal", "-3"], 2, "--signal -3 is no PSNR"),
        (["--signal", "40", "--same-size-as", "6"], 2, "exclude each other"),
        (["--same-signal-as", "5"], 2, "5 bits can't be stored"),
        (["--group-size", "8"], 2, "need --target ios18, found ios17"),
        (["--target", "ios18", "--group-size", "0"], 2, "--group-size 0 is impossible"),
        (["--probes", "0"], 2, "--probes 0 is impossible"),
        (["--sensitivity-prompts", "0"], 2, "--sensitivity-prompts 0 is impossible"),
        (["--steps", "0"], 2, "Expected 1 to 1000 steps"),
        (["--guidance", "nan"], 2, "--guidance nan is no number that can be used"),
        (["--latent-size", "7x7"], 2, "7"),
    ],
)
def test_impossible_searches_are_refused_in_one_sentence(
    options: list[str],
    code: int,
    sentence: str,
    tiny_checkpoint: Checkpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcome = search(capsys, tiny_checkpoint, tmp_path / "r.json", *options)
    assert (outcome.code, outcome.out) == (code, "") and sentence in outcome.sentence
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_that_could_not_be_written_is_refused_before_the_search(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    assert "doesn't exist" in search(capsys, tiny_checkpoint, tmp_path / "absent" / "r.json").sentence
    assert "is a directory" in search(capsys, tiny_checkpoint, tmp_path).sentence
    assert (
        "doesn't exist" in search(capsys, tiny_checkpoint, tmp_path / "r.json", "--plot", tmp_path / "a/p.png").sentence
    )


def test_weights_that_are_not_finite_are_named(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(tiny_checkpoint.root, tmp_path / "checkpoint"))
    path = broken / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    key = "decoder.conv_in.weight"
    tensors[key] = np.where(np.arange(tensors[key].size).reshape(tensors[key].shape) == 5, np.inf, tensors[key])
    save_file({name: value.astype(np.float16) for name, value in tensors.items()}, path)
    outcome = run(capsys, "compress", "search", broken, "-o", tmp_path / "r.json", *FAST, "--component", "decoder")
    assert outcome.code == 4 and not (tmp_path / "r.json").exists()
    assert "Weight 'conv_in.weight' of the decoder holds infinity or NaN" in outcome.sentence
