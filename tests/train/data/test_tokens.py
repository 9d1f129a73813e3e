from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from sfmobile.errors import ArtifactError
from sfmobile.train.data.tokens import TOKENIZER_DIR, CaptionTokenizer

MINE = CaptionTokenizer()
REFERENCE = CLIPTokenizer.from_pretrained(str(TOKENIZER_DIR))


def _reference(texts: list[str], length: int) -> np.ndarray:
    return np.array(REFERENCE(texts, padding="max_length", truncation=True, max_length=length)["input_ids"])


def test_the_known_sentence_has_its_known_ids():
    ids = MINE.encode_batch(["a photo of an astronaut riding a horse on mars"])[0]
    assert ids[:12].tolist() == [49406, 320, 1125, 539, 550, 18376, 6765, 320, 4558, 525, 7496, 49407]
    assert (ids[12:] == 49407).all() and ids.dtype == np.int32 and ids.shape == (77,)


@settings(deadline=None)
@given(st.lists(st.text(max_size=60).filter(lambda text: "<|" not in text), min_size=1, max_size=4))
def test_ids_are_those_of_transformers_for_any_text(texts: list[str]):
    np.testing.assert_array_equal(MINE.encode_batch(texts), _reference(texts, 77))


def test_captions_of_the_data_are_those_of_transformers():
    texts = [
        "",
        "a jack-o-lantern, 3d style",
        "a clock showing three o'clock on an orange background",
        "a rescue worker's helmet to the left of a piñata",
        "keycap button 10  \t and   #",
        "word " * 100,
    ]
    np.testing.assert_array_equal(MINE.encode_batch(texts), _reference(texts, 77))


@pytest.mark.parametrize("length", [2, 16, 32])
def test_a_shorter_row_is_cut_with_its_end_token(length: int):
    texts = ["one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"]
    cut = CaptionTokenizer(length).encode_batch(texts)
    assert cut[0, 0] == 49406 and cut[0, -1] == 49407
    np.testing.assert_array_equal(cut[:, :-1], MINE.encode_batch(texts)[:, : length - 1])


def test_a_directory_without_the_files_is_named(tmp_path: Path):
    with pytest.raises(ArtifactError, match=r"vocab.json is missing"):
        CaptionTokenizer(directory=tmp_path)
    shutil.copy(TOKENIZER_DIR / "merges.txt", tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0')
    with pytest.raises(ArtifactError, match="does not hold CLIP's"):
        CaptionTokenizer(directory=tmp_path)
