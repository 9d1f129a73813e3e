from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.tokenizer import copy_tokenizer
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.sampling.golden import TOKENIZER_SAMPLES
from sfmobile.sampling.tokenizer import Tokenizer
from tests.sampling.pipelines import manifest_of
from tests.tiny import TOKENIZER_DIR

OURS = Tokenizer(TOKENIZER_DIR)
THEIRS = CLIPTokenizer.from_pretrained(TOKENIZER_DIR)

ASTRONAUT = [49406, 320, 1125, 539, 550, 18376, 6765, 320, 4558, 525, 7496, 49407]
WORDS = st.sampled_from(
    ["a", "Cat", "it's", "we'LL", "2024", "<|endoftext|>", "<|startoftext|>", "é", "😀", "红", "  "]
)


def expected_ids(text: str) -> list[int]:
    return list(THEIRS(text, padding="max_length", max_length=77, truncation=True).input_ids)


def test_the_published_sequence() -> None:
    found = OURS.encode("a photo of an astronaut riding a horse on mars")
    assert (found.shape, found.dtype) == ((1, 77), np.int32)
    assert found[0].tolist() == ASTRONAUT + [49407] * (77 - len(ASTRONAUT))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=120))
@example("")
@example(" ")
@example("\u0000\u0007\u001b[31m\u200b\u2028")
@example("A\u0301 \u00c1 ﬁ ß İ ǅ")
@example("'S 'T 'Re")
@example("👩\u200d👩\u200d👧 🏳️\u200d🌈")
@settings(deadline=None, max_examples=300)
def test_matches_transformers_on_any_text(text: str) -> None:
    assert OURS.encode(text)[0].tolist() == expected_ids(text)


@given(st.lists(WORDS, max_size=120).map("".join) | st.lists(WORDS, max_size=120).map(" ".join))
@settings(deadline=None, max_examples=100)
def test_matches_transformers_on_words_and_special_tokens(text: str) -> None:
    assert OURS.encode(text)[0].tolist() == expected_ids(text)


@pytest.mark.parametrize("text", TOKENIZER_SAMPLES)
def test_matches_transformers_on_the_golden_samples(text: str) -> None:
    assert OURS.encode(text)[0].tolist() == expected_ids(text)


def test_an_empty_prompt_is_start_and_end_alone() -> None:
    tokens = OURS.tokenize("")
    assert tokens.ids[0, :2].tolist() == [49406, 49407]
    assert (tokens.used, tokens.dropped) == (2, 0)


def test_a_prompt_that_just_fits_is_not_cut() -> None:
    tokens = OURS.tokenize("cat " * 75)
    assert (tokens.used, tokens.dropped) == (77, 0)


def test_a_long_prompt_is_cut_and_says_what_is_lost() -> None:
    tokens = OURS.tokenize("cat " * 75 + "and a dog")
    assert (tokens.used, tokens.dropped) == (77, 3)
    assert tokens.dropped_text == "and a dog"


def test_the_lost_text_is_found_where_one_character_is_several_tokens() -> None:
    text = "红" * 60
    tokens = OURS.tokenize(text)
    assert tokens.dropped == len(THEIRS(text).input_ids) - 77
    assert tokens.dropped_text == "红" * len(tokens.dropped_text)
    assert 0 < len(tokens.dropped_text) < 60


def test_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(UsageError, match=r"The prompt isn't valid Unicode at character 2 \('\\udce9'\)"):
        OURS.tokenize("a \udce9")


def test_a_bundles_record_decides_the_special_tokens(tiny_checkpoint: Checkpoint) -> None:
    ends = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 0}
    record = manifest_of(tiny_checkpoint).tokenizer.model_copy(update={**ends, "added_tokens": {}, "exact_tokens": {}})
    found = Tokenizer(TOKENIZER_DIR, record).encode("a cat")
    assert found[0].tolist() == [49406, 320, 2368, 49407, *[0] * 73]


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("merges.txt", "#version: 0.2\na b c\n", "merges.txt: 'a b c' is no merge of two tokens"),
        ("merges.txt", "#version: 0.2\nqq zz\n", "merges.txt: 'qq zz' is no merge of two tokens"),
        ("vocab.json", '{"<|startoftext|>": 0}', "has no token '<|endoftext|>'"),
    ],
)
def test_damaged_files_are_named(file: str, content: str, sentence: str, tmp_path: Path) -> None:
    copy_tokenizer(TOKENIZER_DIR, tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(ArtifactError) as refusal:
        Tokenizer(tmp_path)
    assert sentence in str(refusal.value)
