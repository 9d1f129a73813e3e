from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfmobile.bundle.bounds import BOUNDS, out_of_bounds
from sfmobile.bundle.digest import digest_file
from sfmobile.bundle.directory import Bundle, BundleError, read_manifest
from sfmobile.bundle.store import BundleWriter
from sfmobile.checkpoint.config import autoencoder_layout, read_config, text_encoder_layout, unet_layout
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.errors import ArtifactError
from tests.bundle.sample import add_component, finish_bundle, write_sample

READERS = {"unet": unet_layout, "vae": autoencoder_layout, "text_encoder": text_encoder_layout}


def test_numbers_are_looked_at_wherever_they_stand() -> None:
    assert out_of_bounds({"a": [{"layers": 2}], "seed": 2**63, "name": "x", "flag": True, "none": None}) is None
    assert out_of_bounds({"a": [{"layers": 2**32}]}) == "layers is 4294967296: expected 0 to 256"
    assert out_of_bounds({"anything": [1.0, math.nan]}) == "anything is nan: expected a finite number"
    assert out_of_bounds({"down": []}) == "down has 0 entries: expected 1 to 64"
    assert all(bounds.least < bounds.most for bounds in BOUNDS.values())


@pytest.mark.parametrize(
    ("key", "value"),
    [("scaling_factor", 0.0), ("scaling_factor", -1.0), ("height", 0), ("channels", 2**40), ("scaling_factor", 1e300)],
)
def test_a_manifest_with_a_constant_that_makes_no_sense_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    write_sample(tmp_path / "bundle")
    path = tmp_path / "bundle" / "manifest.json"
    content = json.loads(path.read_text())
    content["latents"][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(BundleError, match=rf"manifest\.json' is not a valid manifest: {key} is .*: expected 1"):
        Bundle.open(tmp_path / "bundle")


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_no_manifest_is_written_that_can_not_be_read(value: float, tmp_path: Path) -> None:
    write_sample(tmp_path / "other")
    manifest = read_manifest(tmp_path / "other")
    latents = manifest.latents.model_copy(update={"scaling_factor": value})
    with BundleWriter(tmp_path / "bundle") as writer:
        add_component(writer, "unet")
        with pytest.raises(BundleError, match="scaling_factor is"):
            writer.commit(manifest.model_copy(update={"latents": latents}))
    assert not (tmp_path / "bundle").exists()
    with BundleWriter(tmp_path / "bundle") as writer:
        finish_bundle(writer, {"unet": add_component(writer, "unet")})


@pytest.mark.parametrize(
    ("folder", "key", "value"),
    [
        ("unet", "layers_per_block", 2**32),
        ("unet", "layers_per_block", "4294967296"),
        ("unet", "attention_head_dim", 0),
        ("unet", "norm_num_groups", 0),
        ("unet", "block_out_channels", []),
        ("vae", "scaling_factor", 0),
        ("vae", "scaling_factor", -0.18),
        ("vae", "layers_per_block", 2**32),
        ("text_encoder", "num_hidden_layers", 2**32),
        ("text_encoder", "num_attention_heads", 0),
        ("text_encoder", "vocab_size", 2**63),
    ],
)
def test_constants_of_a_checkpoint_are_bounded_before_they_are_used(
    folder: str, key: str, value: Any, tiny_checkpoint: Checkpoint
) -> None:
    file = tiny_checkpoint.root / folder / "config.json"
    config = read_config(file) | {key: value}
    with pytest.raises(ArtifactError, match=rf"'{file}': {key} (is|has) .*: expected .*; copy the checkpoint again"):
        READERS[folder](config, file)


def test_an_own_layout_is_bounded_before_it_is_built(tiny_snapfusion_checkpoint: Checkpoint) -> None:
    file = tiny_snapfusion_checkpoint.root / "unet" / "config.json"
    for key, value in (("down", []), ("norm_groups", 0), ("heads", 0), ("mid", {"channels": 0, "resnets": 1})):
        config = read_config(file)
        config["layout"][key] = value
        with pytest.raises(ArtifactError, match=rf"'{file}': (channels|{key}) "):
            unet_layout(config, file)


def _altered(bundle: Bundle, folder: Path, alter: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of `bundle` whose manifest was altered so that all checksums hold."""
    root = Path(shutil.copytree(bundle.root, folder / "bundle"))
    content = json.loads((root / "manifest.json").read_text())
    alter(content)
    for name in content["golden"]["files"]:
        content["golden"]["files"][name] = digest_file(root / name).model_dump()
    (root / "manifest.json").write_text(json.dumps(content))
    return root


def test_a_manifest_that_contradicts_itself_is_refused_and_not_taken_for_a_mistake_of_usage(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    def latents(content: dict[str, Any], component: str) -> dict[str, Any]:
        return next(one for one in content["components"][component]["inputs"] if one["name"] == "latents")

    for number, (alter, sentence) in enumerate(
        [
            (lambda content: content["time_embedding"].update(dimension=64), "the host's has 64 values"),
            (lambda content: content["latents"].update(channels=3), "the pipeline's have 3"),
            (lambda content: latents(content, "unet").update(dtype="int32"), "takes no latents"),
            (lambda content: latents(content, "unet").update(shape=[2, 4]), "takes no latents"),
            (lambda content: content["golden"].update(steps=10_000), "10000 golden steps of 1000 timesteps"),
            (lambda content: content["latents"].update(height=16), "no UNet for latents 16x8"),
        ]
    ):
        root = _altered(tiny_bundle, tmp_path / str(number), alter)
        with pytest.raises(BundleError, match=sentence):
            Bundle.open(root, "sizes").for_shapes()


@pytest.mark.parametrize(
    "change",
    [
        lambda vector: vector[:, :, :4],
        lambda vector: vector[0],
        lambda vector: vector.astype(np.int32),
        lambda vector: vector[:0],
        lambda vector: vector[:1],
    ],
)
def test_a_golden_vector_holds_what_its_input_takes(
    change: Callable[[np.ndarray], np.ndarray], tiny_bundle: Bundle, tmp_path: Path
) -> None:
    root = _altered(tiny_bundle, tmp_path, lambda content: None)
    path = root / "golden" / "unet.latents.npy"
    np.save(path, np.ascontiguousarray(change(np.load(path))))
    with pytest.raises(BundleError, match=r"unet\.latents\.npy' holds .*: expected rows of float16 \(2, 4, 8, 8\)"):
        Bundle.open(root, "none").golden("unet.latents")
    assert tiny_bundle.golden("unet.latents").shape == (2, 4, 8, 8)
