"""CLIP token ids of captions, fast enough for training: every distinct word is encoded once.

CLIP's splitting pattern never joins characters across white space, so the ids of a text are those of its words one
after another, and a dictionary from word to ids is exact. Equal to the sampling tokenizer and to transformers'
`CLIPTokenizer`; a test holds this.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sfmobile.errors import ArtifactError, UnavailableError
from sfmobile.models import BUILT_IN, models_folder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# The tokenizer that the built-in model ships with.
TOKENIZER_DIR = models_folder() / BUILT_IN / "tokenizer"
# OpenAI's CLIP, simple_tokenizer.py: contractions, runs of letters, single digits, runs of anything else.
_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
START, END = "<|startoftext|>", "<|endoftext|>"


class CaptionTokenizer:
    """Encodes captions to fixed-length CLIP ids, padded with the end token.

    Args:
        max_length: tokens in a row, start and end included; longer captions are cut.
        directory: where vocab.json and merges.txt are; by default the built-in model's tokenizer.

    Raises:
        ArtifactError: vocab.json or merges.txt is missing or can't be read.
        UnavailableError: the `tokenizers` library isn't installed.
    """

    def __init__(self, max_length: int = 77, directory: Path = TOKENIZER_DIR) -> None:
        self.max_length = max_length
        self._encoder = _word_encoder(directory)
        start, end = self._encoder.token_to_id(START), self._encoder.token_to_id(END)
        if start is None or end is None:
            raise ArtifactError(f"{directory}/vocab.json lacks {START} or {END}; expected the vocabulary of CLIP")
        self.start, self.end = int(start), int(end)
        self._words: dict[str, list[int]] = {}

    def encode_batch(self, captions: Sequence[str]) -> NDArray[np.int32]:
        """Token ids int32 (len(captions), max_length)."""
        ids = np.full((len(captions), self.max_length), self.end, np.int32)
        words, room = self._words, self.max_length - 2
        for row, caption in enumerate(captions):
            tokens = [self.start]
            # Python and the pattern agree on what white space is only among printable characters.
            for word in caption.split() if caption.isprintable() else [caption]:
                known = words.get(word)
                if known is None:
                    known = words[word] = self._encoder.encode(word, add_special_tokens=False).ids
                tokens += known
            ids[row, : min(len(tokens), room + 1)] = tokens[: room + 1]
        return ids


def _word_encoder(directory: Path) -> Tokenizer:
    """Byte-level BPE with CLIP's normalisation and splitting, over one word at a time."""
    try:
        from tokenizers import Regex, Tokenizer
        from tokenizers.models import BPE
        from tokenizers.normalizers import NFC, Lowercase, Replace
        from tokenizers.normalizers import Sequence as Normalisers
        from tokenizers.pre_tokenizers import ByteLevel, Split
        from tokenizers.pre_tokenizers import Sequence as Splitters
    except ImportError as error:
        raise UnavailableError(
            "encoding captions needs `tokenizers`; install it with `pip install tokenizers`"
        ) from error
    vocab, merges = directory / "vocab.json", directory / "merges.txt"
    for path in (vocab, merges):
        if not path.is_file():
            raise ArtifactError(f"{path} is missing: expected the files of CLIP's tokenizer in {directory}")
    try:
        model = BPE.from_file(str(vocab), str(merges), end_of_word_suffix="</w>", unk_token=END)
    except Exception as error:  # the library raises bare Exception for every kind of damage
        raise ArtifactError(f"{directory} does not hold CLIP's vocab.json and merges.txt ({error})") from error
    encoder = Tokenizer(model)
    encoder.normalizer = Normalisers([NFC(), Replace(Regex(r"\s+"), " "), Lowercase()])
    split = Split(Regex(_PATTERN), behavior="removed", invert=True)
    encoder.pre_tokenizer = Splitters([split, ByteLevel(add_prefix_space=False)])
    return encoder
