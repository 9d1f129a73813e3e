"""A safety checker sees what diffusers' sees, and says the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor

import sfmobile
from sfmobile.bundle.directory import Bundle, BundleError, validate_manifest
from sfmobile.bundle.manifest import SafetyPictureRecord
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.export.options import ExportOptions
from sfmobile.export.plan import plan_export
from sfmobile.inspect.estimate.times import calls_per_picture
from sfmobile.runtime.opening import open_runtime, open_source
from sfmobile.sampling.pipeline import SAFETY_KEY, Pipeline, Request
from sfmobile.sampling.safety import SafetyConcepts, pixel_values
from sfmobile.verify.constants import constant_faults
from sfmobile.verify.signal import psnr
from tests.nets.oracles import PARITY_DB
from tests.safety_checkers import pictures, safety_checker, with_safety_checker

REQUEST = Request("a red apple", steps=1, guidance_scale=1.0)


@pytest.fixture(scope="module")
def checkpoint(tiny_safe_bundle: Bundle) -> Checkpoint:
    return Checkpoint.open(Path(tiny_safe_bundle.manifest.source.id)).with_components(["safety_checker"])


def test_the_network_is_clips_as_diffusers_has_it(checkpoint: Checkpoint, tiny_safe_bundle: Bundle) -> None:
    theirs = safety_checker()
    picture = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 24, 24)).astype(np.float32))
    with torch.no_grad():
        expected = theirs.visual_projection(theirs.vision_model(picture)[1]).numpy()
        assert psnr(expected, checkpoint.load("safety_checker")(picture).numpy()) >= PARITY_DB
    for precision, gate in (("fp32", 60), ("fp16", 45)):
        with open_runtime("mil", tiny_safe_bundle, precision=precision).load("safety_checker") as program:
            assert psnr(expected, program.predict({"pixel_values": picture.numpy()})["image_embeds"]) >= gate


@pytest.mark.parametrize("size", [(32, 32), (512, 512), (40, 100), (100, 80), (24, 24), (10, 11)])
def test_a_picture_comes_to_it_as_transformers_brings_it(size: tuple[int, int]) -> None:
    (picture,) = pictures(1, *size)
    processor = CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    expected = processor(Image.fromarray(picture), return_tensors="np").pixel_values
    mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    record = SafetyPictureRecord(shortest_edge=24, crop_size=24, mean=mean, std=std)
    assert psnr(expected, pixel_values(picture, record)) >= 120


def test_verdicts_are_diffusers(checkpoint: Checkpoint, tiny_safe_bundle: Bundle) -> None:
    """What each score is stands in tests/golden/test_golden.py; here the way from pixels to the flag."""
    theirs, concepts = safety_checker(), SafetyConcepts.of(tiny_safe_bundle)
    assert concepts is not None
    given = 2 * torch.randn(24, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    network = checkpoint.load("safety_checker")
    with torch.no_grad():
        embeddings = torch.cat([network(one[None]) for one in given])
        cosines = torch.nn.functional.normalize(embeddings) @ torch.nn.functional.normalize(theirs.concept_embeds).T
        # Of seventeen concepts a few are near a picture, and none is near some.
        thresholds = cosines.quantile(0.9, dim=0)
        theirs.concept_embeds_weights.copy_(thresholds)
        _, flags = theirs(given, np.zeros((len(given), 1)))
    record = concepts.record.model_copy(update={"concept_thresholds": tuple(thresholds.tolist())})
    ours = SafetyConcepts(concepts.concepts, concepts.special_care, record)
    assert [ours.judge(embedding[None].numpy()).flagged for embedding in embeddings] == list(map(bool, flags))
    assert set(map(bool, flags)) == {True, False}


def test_files_of_transformers_4_are_read_too(checkpoint: Checkpoint, tmp_path: Path) -> None:
    root = Path(shutil.copytree(checkpoint.root, tmp_path / "older"))
    file = root / "safety_checker" / "model.safetensors"
    weights = load_file(file)
    inner = {name.removeprefix("vision_model."): name for name in weights if name.startswith("vision_model.")}
    renamed = {f"vision_model.vision_model.{end}": weights.pop(name) for end, name in inner.items()}
    positions = {"vision_model.vision_model.embeddings.position_ids": torch.arange(10)[None]}
    save_file({**weights, **renamed, **positions}, file)
    opened = Checkpoint.open(root).with_components(["safety_checker"])
    assert opened.sha256("safety_checker") == checkpoint.sha256("safety_checker")


def test_it_is_a_component_that_is_asked_for(tiny_safe_bundle: Bundle, checkpoint: Checkpoint) -> None:
    manifest = tiny_safe_bundle.manifest
    assert manifest.pipeline.components == ("text_encoder", "unet", "decoder", "safety_checker")
    assert manifest.can_draw and calls_per_picture(manifest, "safety_checker") == 1
    plain = Checkpoint.open(checkpoint.root)
    assert "safety_checker" not in plain.parts
    assert [part.name for part in plan_export(plain, ExportOptions()).components][-1] == "decoder"
    assert open_source(tiny_safe_bundle).pipeline == manifest.pipeline
    assert not constant_faults(tiny_safe_bundle, checkpoint)


def test_a_changed_concept_is_found(tiny_safe_bundle: Bundle, checkpoint: Checkpoint, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny_safe_bundle.root, tmp_path / "bundle"))
    rows = np.load(root / "safety_checker" / "concepts.npy")
    np.save(root / "safety_checker" / "concepts.npy", rows[::-1])
    faults = constant_faults(Bundle(root, tiny_safe_bundle.manifest), checkpoint)
    assert faults == ["safety_checker/concepts.npy differs from the checkpoint's"]
    np.save(root / "safety_checker" / "concepts.npy", rows[:, 1:])
    with pytest.raises(BundleError, match=r"expected float32 \(17, 16\)"):
        SafetyConcepts.of(Bundle(root, tiny_safe_bundle.manifest))


def test_a_flagged_picture_is_black_and_says_so(tiny_safe_bundle: Bundle) -> None:
    for threshold, word in ((2.0, "passed"), (-2.0, "flagged")):
        safety = tiny_safe_bundle.manifest.safety
        assert safety is not None
        changed = safety.model_copy(update={"concept_thresholds": (threshold,) * 17})
        bundle = Bundle(tiny_safe_bundle.root, tiny_safe_bundle.manifest.model_copy(update={"safety": changed}))
        with Pipeline(bundle, runtime="torch") as pipeline:
            drawing = pipeline.draw(REQUEST, preview="linear")
            unchecked = pipeline.draw(Request("a red apple", steps=1, guidance_scale=1.0, safety_checker=False))
        assert drawing.safety is not None and drawing.picture.settings[SAFETY_KEY] == word
        black = word == "flagged"
        assert drawing.safety.flagged == black == (not drawing.picture.pixels.any())
        assert all(black == (not one.pixels.any()) for one in drawing.previews)
        assert unchecked.safety is None and unchecked.picture.settings[SAFETY_KEY] == "off"
        assert unchecked.picture.pixels.any()


@pytest.mark.parametrize(
    ("file", "key", "value", "problem"),
    [
        ("feature_extractor/preprocessor_config.json", "resample", 2, "'resample' is 2; expected 3"),
        ("feature_extractor/preprocessor_config.json", "crop_size", 16, "cut to 16x16; the safety checker takes 24x24"),
        ("safety_checker/config.json", "vision_config", None, "has no 'vision_config'"),
        ("safety_checker/config.json", "projection_dim", 12, r"'visual_projection.weight' has shape \(16, 32\)"),
    ],
)
def test_what_it_can_not_be_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, file: str, key: str, value: object, problem: str
) -> None:
    root = Path(shutil.copytree(checkpoint.root, tmp_path / "other"))
    config = json.loads((root / file).read_text())
    (root / file).write_text(json.dumps({**config, key: value}))
    opened = Checkpoint.open(root).with_components(["safety_checker"])
    with pytest.raises(ArtifactError, match=problem):
        assert opened.safety is not None
        opened.state_dict("safety_checker")
        print(opened.safety.picture)


def test_a_checkpoint_without_one_says_so(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no component 'safety_checker'"):
        tiny_checkpoint.with_components(["safety_checker"])
    root = with_safety_checker(tiny_checkpoint.root, tmp_path / "gone")
    shutil.rmtree(root / "safety_checker")
    with pytest.raises(ArtifactError, match=r"safety_checker.config\.json"):
        Checkpoint.open(root).with_components(["safety_checker"]).state_dict("safety_checker")


def test_verify_proves_it_and_how_it_was_read(tiny_safe_bundle: Bundle) -> None:
    verdict = sfmobile.verify(tiny_safe_bundle, quick=True)
    assert verdict.passed, verdict.failures()
    (read,) = (one for one in verdict.read if one.left == "diffusers")
    assert [stage.input for stage in read.stages][-2:] == ["safety checker: pixels", "safety checker: embedding"]
    assert "safety_checker" in str(verdict)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("concepts", "other.npy", "file 'other.npy' of the safety checker has no checksum"),
        ("concept_thresholds", [], "concept_thresholds"),
        ("picture", {"shortest_edge": 20, "crop_size": 24, "mean": [0.5] * 3, "std": [0.5] * 3}, "can't be cut"),
        ("picture", {"shortest_edge": 24, "crop_size": 24, "mean": [0.5] * 3, "std": [0.5, 0, 0.5]}, "above 0"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    tiny_safe_bundle: Bundle, key: str, value: object, problem: str
) -> None:
    content = tiny_safe_bundle.manifest.model_dump(mode="json")
    content["safety"][key] = value
    with pytest.raises(BundleError, match=problem):
        validate_manifest(content, Path("manifest.json"))
    with pytest.raises(BundleError, match="together or not at all"):
        validate_manifest({**content, "safety": None}, Path("manifest.json"))
