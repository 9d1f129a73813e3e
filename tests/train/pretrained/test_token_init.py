from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from sfmobile.errors import ArtifactError
from sfmobile.train.pretrained.token_init import (
    SPECIAL_TOKENS,
    byte_decoder,
    principal_components,
    token_embedding,
    token_texts,
)
from tests.tiny import TOKENIZER_DIR


def test_texts_are_what_transformers_decodes() -> None:
    texts = token_texts(TOKENIZER_DIR / "vocab.json")
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER_DIR)
    assert len(texts) == 49408
    for index in (0, 320, 1125, 18376, 30000, 48000, *range(500, 40000, 1111)):
        assert texts[index] == tokenizer.decode([index]).strip(), index
    assert texts[49406:] == list(SPECIAL_TOKENS)
    assert len(byte_decoder()) == 256


def test_a_vocabulary_with_gaps_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 2}))
    with pytest.raises(ArtifactError, match="gaps or repeats"):
        token_texts(tmp_path / "vocab.json")
    with pytest.raises(ArtifactError, match="vocabulary in JSON"):
        token_texts(tmp_path / "absent.json")


def test_components_keep_distances_where_the_dimension_allows_it() -> None:
    random = np.random.default_rng(0)
    flat = random.normal(size=(50, 3)).astype(np.float32) @ random.normal(size=(3, 12)).astype(np.float32) + 5
    reduced, kept = principal_components(flat, 3)
    assert kept == pytest.approx(1.0)
    before = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(reduced[:, None] - reduced[None], axis=-1), before, rtol=1e-3, atol=1e-4)
    assert (np.diff(reduced.var(axis=0)) <= 0).all()
    _, less = principal_components(flat, 1)
    assert less < 1


def test_embedding_has_the_asked_scale_and_keeps_neighbours() -> None:
    random = np.random.default_rng(0)
    texts = [*map(str, range(40)), *SPECIAL_TOKENS]
    meaning = random.normal(size=(42, 16)).astype(np.float32)
    meaning[1] = meaning[0] + 0.01
    embedding, _ = token_embedding(lambda given: meaning, texts, 8)
    assert embedding.shape == (42, 8)
    assert embedding.dtype == torch.float16
    assert embedding.float().std().item() == pytest.approx(0.02, rel=0.1)
    distance = (embedding.float() - embedding[0].float()).norm(dim=1)
    assert distance[1] < 0.2 * distance[2:].min()
    again, _ = token_embedding(lambda given: meaning, texts, 8)
    assert torch.equal(again, embedding)
