"""A prompt as the text encoder takes it: chunks of tokens with their weights, and the states that come of them.

A text encoder reads 77 tokens, 75 of them words. A longer prompt is cut into chunks, each encoded by itself, and the
states stand side by side; a UNet that reads several chunks was exported for so many (`TextCondition.chunks`).
Cutting and weighing are AUTOMATIC1111's (its "original" emphasis, which restores the mean of the states):
a chunk ends after a comma if one stands within its last 20 tokens.

A UNet's input has a fixed length. A prompt of fewer chunks is repeated in it: attention over keys that stand there k
times is attention over them once, so that the picture is the one of a UNet for that prompt alone. Where the chunks
don't divide the places, empty ones follow, as there behind a prompt shorter than its negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sfmobile.sampling.emphasis import Piece, PromptSyntax, read
from sfmobile.sampling.tokenizer import Tokenizer

# How far back from a chunk's end a comma is looked for.
COMMA_REACH = 20


@dataclass(frozen=True)
class Chunk:
    """ids: int32 (1, max_length), start, words, end and padding. weights: float32 (max_length,)."""

    ids: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Prompt:
    """A prompt cut into chunks.

    empty: how many of the chunks fill up. dropped: tokens that no chunk holds; dropped_text is what they stand for.
    """

    chunks: tuple[Chunk, ...]
    empty: int
    dropped: int
    dropped_text: str

    def warnings_of(self, what: str) -> list[str]:
        """What a user must know, a sentence each. what: "prompt", "negative prompt"."""
        found = []
        if self.dropped:
            shown = self.dropped_text if len(self.dropped_text) <= 60 else f"{self.dropped_text[:57]}..."
            length, count = self.chunks[0].ids.shape[1], len(self.chunks)
            room = f"the {length} that the text encoder reads" if count == 1 else f"{count} chunks of {length - 2}"
            found.append(
                f"The {what} is {self.dropped} tokens longer than {room}; '{shown}' is left out (a bundle exported "
                "with more --prompt-chunks reads on)."
            )
        if self.empty:
            count = len(self.chunks) - self.empty
            found.append(
                f"The {what} takes {count} chunks of the {len(self.chunks)} that the UNet reads; empty ones fill it up."
            )
        return found


@dataclass(frozen=True)
class _Token:
    id: int
    weight: float
    # The piece it is of, and where in its text it begins.
    piece: int
    start: int


def cut(tokenizer: Tokenizer, text: str, syntax: PromptSyntax, places: int = 1) -> Prompt:
    """`text` in as many chunks as a UNet of `places` of them takes: a divisor of it.

    syntax: plain takes the text as it stands. Raises `UsageError` for text that isn't Unicode or that the syntax
    doesn't have.
    """
    if syntax == "plain" and places == 1:
        tokens = tokenizer.tokenize(text)
        return Prompt((_unweighted(tokens.ids),), 0, tokens.dropped, tokens.dropped_text)
    pieces = read(text) if syntax == "a1111" else (Piece(text),)
    texts: list[str] = []
    parts: list[list[_Token]] = [[]]
    for index, piece in enumerate(pieces):
        written, ids, starts = tokenizer.words(piece.text)
        texts.append(written)
        if piece.chunk:
            parts.append([])
        parts[-1] += [_Token(id, piece.weight, index, start) for id, start in zip(ids, starts, strict=True)]
    # A BREAK at the very end opens nothing.
    if len(parts) > 1 and not parts[-1]:
        parts.pop()
    chunks = [chunk for part in parts for chunk in _chunks(part, tokenizer.max_length - 2, tokenizer.comma)]
    kept, beyond = chunks[:places], [token for chunk in chunks[places:] for token in chunk]
    count = len(kept)
    while places % count:
        count += 1
    left = "" if not beyond else texts[beyond[0].piece][beyond[0].start :] + "".join(texts[beyond[0].piece + 1 :])
    made = [_chunk(tokenizer, tokens) for tokens in [*kept, *[[]] * (count - len(kept))]]
    return Prompt(tuple(made), count - len(kept), len(beyond), left)


def _chunks(tokens: Sequence[_Token], length: int, comma: int | None) -> list[list[_Token]]:
    """`tokens` in runs of at most `length`, at least one. A full one is cut behind its last comma if that is near."""
    chunks: list[list[_Token]] = []
    current: list[_Token] = []
    behind_comma: int | None = None
    for token in tokens:
        full = len(current) == length
        if full and token.id != comma and behind_comma is not None and length - behind_comma < COMMA_REACH:
            chunks.append(current[:behind_comma])
            current, behind_comma = [*current[behind_comma:], token], None
        elif full:
            # A comma that a chunk begins with is none to cut behind.
            chunks.append(current)
            current, behind_comma = [token], None
        else:
            current.append(token)
            if token.id == comma:
                behind_comma = len(current)
    return [*chunks, current] if current or not chunks else chunks


def _chunk(tokenizer: Tokenizer, tokens: Sequence[_Token]) -> Chunk:
    chunk = _unweighted(tokenizer.framed([token.id for token in tokens]))
    chunk.weights[1 : len(tokens) + 1] = [token.weight for token in tokens]
    return chunk


def _unweighted(ids: np.ndarray) -> Chunk:
    return Chunk(ids, np.ones(ids.shape[1], np.float32))


def weighed(states: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Hidden states (1, C, 1, S), each token's times its weight (S,), at the mean that they had before."""
    if np.all(weights == 1):
        return states
    scaled = states * weights
    restored: np.ndarray = scaled * np.float32(states.mean(dtype=np.float64) / scaled.mean(dtype=np.float64))
    return restored


def beside(states: Sequence[np.ndarray], places: int) -> np.ndarray:
    """The chunks' hidden states (1, C, 1, S) side by side, repeated until they fill `places` of them."""
    return np.concatenate([*states] * (places // len(states)), axis=3)
