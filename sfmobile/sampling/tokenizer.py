"""CLIP's byte-pair tokenizer, on the Rust `tokenizers` engine that transformers uses too.

Built from the vocabulary and the merges with the steps of transformers' CLIPTokenizer (NFC, white space, lower case,
CLIP's pattern, bytes), without importing transformers: it is ready in a tenth of a second.

Added tokens, such as those of textual inversion, are cut out of the text first. One that stands for several vectors
(`<x>`, `<x>_1`, `<x>_2`) is written out in the prompt as diffusers does (`maybe_convert_prompt`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import TokenizerRecord
from sfmobile.bundle.pipeline import ComponentKey
from sfmobile.checkpoint.tokenizer import TokenizerConstants, read_merges, read_tokenizer, read_vocabulary
from sfmobile.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    import tokenizers

# CLIP's own pattern (openai/CLIP, simple_tokenizer.py).
PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@dataclass(frozen=True)
class Tokens:
    """A tokenized prompt.

    ids: int32 (1, max_length), padded. used: tokens without padding, start and end included.
    dropped: tokens beyond max_length; dropped_text is the end of the prompt that they stand for.
    """

    ids: np.ndarray
    used: int
    dropped: int
    dropped_text: str


class Tokenizer:
    """Text to token ids: start, byte pairs, end, padding, always `max_length` of them."""

    def __init__(self, folder: Path, record: TokenizerRecord | TokenizerConstants | None = None) -> None:
        """`folder` holds the tokenizer's files; `record`, a bundle's or a checkpoint's, overrides what is found there.

        Raises `ArtifactError` if the files are missing or damaged.
        """
        constants: TokenizerConstants | TokenizerRecord = record or read_tokenizer(folder)
        self.max_length = constants.max_length
        self.bos_token_id = constants.bos_token_id
        self.eos_token_id = constants.eos_token_id
        self.pad_token_id = constants.pad_token_id
        self._added = {**constants.added_tokens, **constants.exact_tokens}
        self._engine = _engine(folder, constants)

    def encode(self, text: str) -> np.ndarray:
        """Token ids of `text`, int32 (1, max_length)."""
        return self.tokenize(text).ids

    def tokenize(self, text: str) -> Tokens:
        """Token ids of `text` and what of it didn't fit.

        Any text is defined: an empty one is start and end alone; what the vocabulary has no token for (emoji, CJK,
        control characters) becomes the tokens of its UTF-8 bytes. Raises `UsageError` for text that isn't Unicode.
        """
        room = self.max_length - 2
        text, ids, starts = self.words(text)
        dropped = max(0, len(ids) - room)
        dropped_text = text[starts[room] :] if dropped else ""
        return Tokens(self.framed(ids[:room]), min(len(ids), room) + 2, dropped, dropped_text)

    def words(self, text: str) -> tuple[str, list[int], list[int]]:
        """`text` as it is read, the ids of all of it without start and end, and where in it each token begins.

        Raises `UsageError` for text that isn't Unicode.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UsageError(
                f"The prompt isn't valid Unicode at character {error.start} ({text[error.start]!r}); type it again."
            ) from error
        text = self._written_out(text)
        encoding = self._engine.encode(text, add_special_tokens=False)
        return text, encoding.ids, [start for start, _ in encoding.offsets]

    def framed(self, ids: Sequence[int]) -> np.ndarray:
        """`ids`, at most `max_length` - 2, between start and end, padded: int32 (1, max_length)."""
        row = [self.bos_token_id, *ids, self.eos_token_id]
        padded = np.full((1, self.max_length), self.pad_token_id, np.int32)
        padded[0, : len(row)] = row
        return padded

    @property
    def comma(self) -> int | None:
        """The id of a comma, if the vocabulary has one."""
        found: int | None = self._engine.token_to_id(",</w>")
        return found

    def _written_out(self, text: str) -> str:
        """`text` with each token of several vectors followed by those of its other vectors."""
        several = [token for token in self._added if f"{token}_1" in self._added]
        if not several:
            return text
        found = set(self._engine.encode(text, add_special_tokens=False).tokens)
        for token in sorted(found.intersection(several)):
            parts = [token]
            while f"{token}_{len(parts)}" in self._added:
                parts.append(f"{token}_{len(parts)}")
            text = text.replace(token, " ".join(parts))
        return text


def tokenizers_of(bundle: Bundle) -> dict[ComponentKey, Tokenizer]:
    """The bundle's tokenizers by their names, each of its own folder."""
    return {
        name: Tokenizer(bundle.tokenizer_folder(name), record) for name, record in bundle.manifest.tokenizers.items()
    }


def _engine(folder: Path, constants: TokenizerConstants | TokenizerRecord) -> tokenizers.Tokenizer:
    from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    vocab = read_vocabulary(folder)
    merges = read_merges(folder, vocab)
    tokens = {index: token for token, index in vocab.items()}
    ends = (constants.bos_token_id, constants.eos_token_id)
    if any(index not in tokens for index in ends):
        raise ArtifactError(
            f"The vocabulary in {folder} lacks token {ends[0]} or {ends[1]}; expected start and end of text."
        )
    # Bundles from before added tokens were recorded say nothing of start and end either.
    added = constants.added_tokens or {tokens[index]: index for index in ends if not constants.exact_tokens}
    engine = Tokenizer(
        BPE(vocab, merges, continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=tokens[ends[1]])
    )
    engine.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    # The engine numbers those that the vocabulary lacks itself, one after the other.
    for token, index in sorted({**added, **constants.exact_tokens}.items(), key=lambda item: item[1]):
        engine.add_tokens([AddedToken(token, normalized=token not in constants.exact_tokens)])
        if engine.token_to_id(token) != index:
            raise ArtifactError(
                f"The tokenizer in {folder} gives the added token '{token}' the id {index}, and by its place it would "
                f"be {engine.token_to_id(token)}; export the checkpoint again."
            )
    return engine
