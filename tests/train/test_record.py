"""A stage's file says what it is; what says nothing, or something else, is refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sfmobile.errors import ArtifactError
from sfmobile.nets.unet import UNet
from sfmobile.train.record import WEIGHTS, StageRecord, has_record, read_record, save_with_record
from sfmobile.train.run import Run
from sfmobile.train.state import load_metadata, load_tensors, save_tensors
from tests.tiny import TINY_UNET
from tests.train.stage_files import write_stage


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    write_stage(tmp_path, "teacher", unet=UNet(TINY_UNET), text_encoder_from="other")
    return tmp_path / "teacher" / WEIGHTS


def test_layout_schedule_and_text_encoder_are_read_back_as_they_were_written(path: Path) -> None:
    assert has_record(path)
    record = read_record(path)
    assert record.unet is not None and record.unet.layout == TINY_UNET and record.unet.text_encoder_from == "other"
    assert StageRecord.model_validate_json(record.model_dump_json()) == record


def altered(path: Path, change: object) -> None:
    record = json.loads(load_metadata(path)["stage"])
    change(record)  # type: ignore[operator]
    save_tensors(path, load_tensors(path)[0], {"stage": json.dumps(record)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record.update(schema_version=2), "at schema_version"),
        (lambda record: record.update(colour="red"), "at colour"),
        (lambda record: record["unet"].pop("schedule"), "at unet.schedule"),
        (lambda record: record["unet"]["layout"].update(depth=3), "at unet.layout.depth"),
        (lambda record: record["unet"]["schedule"].update(beta_schedule="cosine"), "at unet.schedule.beta_schedule"),
    ],
)
def test_a_record_that_isnt_one_is_named_with_its_place(change: object, words: str, path: Path) -> None:
    altered(path, change)
    with pytest.raises(
        ArtifactError, match=rf"weights\.safetensors' is not a stage's record {words}.*run the stage again"
    ):
        read_record(path)


def test_a_file_without_a_record_is_refused_with_the_mend(path: Path) -> None:
    save_tensors(path, load_tensors(path)[0])
    assert not has_record(path) and not has_record(path.with_name("none"))
    words = rf"expected a stage's record, found a file of an older version; .*--run {path.parent.parent}, which takes"
    with pytest.raises(ArtifactError, match=words):
        read_record(path)


def test_weights_that_dont_fit_their_record_are_refused(path: Path) -> None:
    tensors = load_tensors(path)[0]
    del tensors["unet.conv_out.bias"]
    save_with_record(path, tensors, read_record(path))
    with pytest.raises(ArtifactError, match=r"expected the unet of its record, found weights that don't fit it"):
        Run(path.parent.parent, cpu=True).trained_unet("teacher")
