"""Textual inversion for two text encoders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sfmobile.checkpoint.hub import open_checkpoint
from sfmobile.errors import ArtifactError
from sfmobile.sampling.pipeline import Request
from sfmobile.verify.diffusers_reference import READING_GATE_DB, compare_reading
from tests.checkpoint.families import TEXT_TO_IMAGE, XL, write_family
from tests.sampling.pipelines import reference_pipeline


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(XL["SDXL"], tmp_path_factory.mktemp("xl") / "base")


def test_tokens_of_several_vectors_are_read_by_both_encoders_as_in_diffusers(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    file = tmp_path / "toy.safetensors"
    save_file({"clip_l": torch.randn(2, 24), "clip_g": torch.randn(2, 32)}, file)
    checkpoint = open_checkpoint(base, embedding=[f"{file}:<toy>"])
    assert [text.tokenizer.added_tokens["<toy>_1"] for text in checkpoint.texts] == [515, 515]
    # The prompt is drawn with the token behind it.
    with reference_pipeline(checkpoint) as ours:
        stages = {one.input: one for one in compare_reading(checkpoint, ours, Request("a red", "green", 3, 1))}
        bare = {one.input: one for one in compare_reading(open_checkpoint(base), ours, Request("a <toy>", "x", 3, 1))}
    assert all(stage.agreement.reaches(READING_GATE_DB) for stage in stages.values())
    assert not bare["prompt: embedding"].agreement.reaches(READING_GATE_DB)
    assert open_checkpoint(checkpoint.source).sha256("text_encoder_2") == checkpoint.sha256("text_encoder_2")


REFUSED = {
    "one encoder": ({"<toy>": torch.ones(1, 24)}, "for one text encoder and the model has 2"),
    "half of it": ({"clip_g": torch.ones(1, 32)}, "holds clip_g; expected clip_l and clip_g"),
    "another width": ({"clip_l": torch.ones(1, 24), "clip_g": torch.ones(1, 24)}, "vectors of 24 numbers .* have 32"),
    "not as many": ({"clip_l": torch.ones(2, 24), "clip_g": torch.ones(1, 32)}, "2 and 1 vectors"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_both_encoders_is_refused(name: str, base: Path, tmp_path: Path) -> None:
    tensors, message = REFUSED[name]
    save_file(tensors, tmp_path / "toy.safetensors")
    with pytest.raises(ArtifactError, match=message):
        open_checkpoint(base, embedding=[tmp_path / "toy.safetensors"])


def test_one_for_two_encoders_is_refused_where_there_is_one(tmp_path: Path) -> None:
    root = write_family(TEXT_TO_IMAGE["BK-SDM tiny, tiny-sd"], tmp_path / "base")
    file = tmp_path / "toy.safetensors"
    save_file({"clip_l": torch.ones(1, 24), "clip_g": torch.ones(1, 32)}, file)
    with pytest.raises(ArtifactError, match="the two text encoders of Stable Diffusion XL"):
        open_checkpoint(root, embedding=[file])
