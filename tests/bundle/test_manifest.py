from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from sfmobile.bundle.directory import read_manifest, validate_manifest
from sfmobile.bundle.manifest import PATH_PATTERN, Manifest, check_relative_path
from sfmobile.bundle.schema import SCHEMA_PATH, manifest_schema
from sfmobile.errors import ArtifactError
from tests.bundle.sample import SAMPLE

SAMPLE_MANIFEST = json.loads((SAMPLE / "manifest.json").read_text(encoding="utf-8"))


def test_committed_schema_is_current() -> None:
    assert SCHEMA_PATH.read_text(encoding="utf-8") == manifest_schema(), (
        "run `python -m sfmobile.bundle.schema` and commit manifest.schema.json"
    )


def test_schema_accepts_a_bundle_and_refuses_a_path_outside() -> None:
    validator = Draft202012Validator(json.loads(manifest_schema()))
    validator.validate(SAMPLE_MANIFEST)
    escaping = json.loads(json.dumps(SAMPLE_MANIFEST))
    files = escaping["tokenizers"]["tokenizer"]["files"]
    files["../vocab.json"] = files.pop("tokenizer/vocab.json")
    assert not validator.is_valid(escaping)
    escaping = json.loads(json.dumps(SAMPLE_MANIFEST))
    escaping["components"]["unet"]["package"] = "../UNet.mlpackage"
    assert not validator.is_valid(escaping)


def test_manifest_survives_a_round_trip() -> None:
    manifest = Manifest.model_validate(SAMPLE_MANIFEST)
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest


@given(st.lists(st.sampled_from(["a", ".", "..", "", "b.c", "...", "\\", " "]), max_size=4).map("/".join))
def test_schema_pattern_and_reader_agree_on_every_path(path: str) -> None:
    try:
        check_relative_path(path)
        allowed = True
    except ValueError:
        allowed = False
    assert (re.search(PATH_PATTERN, path) is not None) == allowed


@pytest.mark.parametrize("path", ["", "/a", "../a", "a/../b", "a//b", "a/", "./a", "a\\b", "a\0b"])
def test_unsafe_paths_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="relative path inside the bundle"):
        check_relative_path(path)


def test_a_manifest_of_version_1_is_the_same_bundle() -> None:
    old = SAMPLE.with_name("version_1.json")
    content = json.loads(old.read_text(encoding="utf-8"))
    assert content["schema_version"] == 1
    assert validate_manifest(content, old) == read_manifest(SAMPLE)
    content["scheduler"]["default_steps"] = 3
    assert validate_manifest(content, old).pipeline.default_steps == 3


@pytest.mark.parametrize("edit", [{"scheduler": None}, {"components": {"upscaler": {}}}, {"tokenizer": []}])
def test_what_is_no_manifest_of_version_1_is_refused(edit: dict[str, object]) -> None:
    old = SAMPLE.with_name("version_1.json")
    with pytest.raises(ArtifactError, match=r"not a valid manifest at schema_version"):
        validate_manifest(json.loads(old.read_text(encoding="utf-8")) | edit, old)
