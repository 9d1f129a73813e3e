"""The constants of a CLIP tokenizer directory: special token ids and length."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfmobile.checkpoint.config import Json, read_json
from sfmobile.errors import ArtifactError

VOCAB_FILE = "vocab.json"
MERGES_FILE = "merges.txt"
MAX_LENGTH = 77


@dataclass(frozen=True)
class TokenizerConstants:
    """`vocabulary` is one more than the largest token id."""

    vocabulary: int
    max_length: int
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int


def read_tokenizer(folder: Path) -> TokenizerConstants:
    """Constants of the CLIP tokenizer in `folder`; raises `ArtifactError` if a file is missing or an id unknown.

    Special tokens are those of `tokenizer_config.json` or `special_tokens_map.json`, CLIP's own where neither names
    them. Stable Diffusion 2 pads with "!" and not with the end token.
    """
    vocab = read_json(folder / VOCAB_FILE)
    if not (folder / MERGES_FILE).is_file():
        raise ArtifactError(
            f"{folder / MERGES_FILE} is missing; expected CLIP's byte-pair merges beside the vocabulary."
        )
    names: Json = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / file).is_file():
            config = read_json(folder / file)
            names |= {key: config[key] for key in names if config.get(key) is not None}
    if not vocab or not all(isinstance(value, int) for value in vocab.values()):
        raise ArtifactError(f"{folder / VOCAB_FILE} should map tokens to whole numbers; copy it again.")
    ids = {key: _token_id(vocab, value, folder) for key, value in names.items()}
    return TokenizerConstants(
        vocabulary=max(vocab.values()) + 1,
        max_length=MAX_LENGTH,
        bos_token_id=ids["bos_token"],
        eos_token_id=ids["eos_token"],
        pad_token_id=ids["pad_token"],
    )


def _token_id(vocab: Json, name: Any, folder: Path) -> int:
    # transformers writes special tokens as strings or as objects with their content.
    token = name.get("content") if isinstance(name, dict) else name
    if token not in vocab:
        raise ArtifactError(f"{folder / VOCAB_FILE} has no token '{token}', which {folder} names as a special token.")
    return int(vocab[token])
