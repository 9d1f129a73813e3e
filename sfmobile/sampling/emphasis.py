"""Weights in a prompt as AUTOMATIC1111's web UI reads them: (word:1.3), ((word)), [word], and BREAK.

Round brackets multiply what they hold by 1.1 or by the number before the closing one, square brackets divide it by
1.1; a backslash takes a bracket as it is, and one that isn't closed holds the rest of the prompt. The syntax is
described in the web UI's wiki ("Attention/emphasis"); what the same wiki has beside it (prompt editing, alternation,
AND, networks by name) changes a picture in other ways and is refused by name.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from sfmobile.errors import UsageError

# How a prompt is read: as it stands, or with weights.
PromptSyntax: TypeAlias = Literal["plain", "a1111"]
PROMPT_SYNTAXES: tuple[PromptSyntax, ...] = get_args(PromptSyntax)

ROUND = 1.1
SQUARE = 1 / 1.1
_BRACKETS = "()[]\\"
_WEIGHT = re.compile(r":\s*([+-]?[.0-9]+)\s*\)")
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_AND = re.compile(r"\bAND\b")
_NETWORK = re.compile(r"<(lora|lyco|hypernet):[^<>]*>", re.IGNORECASE)
_EDITING = re.compile(r"\||:\s*[.0-9]+\s*$")
_PLAINLY = "give the words alone, or take the prompt as it stands: --prompt-syntax plain"


@dataclass(frozen=True)
class Piece:
    """Text of one weight. chunk: whether a new chunk of tokens begins with it (BREAK)."""

    text: str
    weight: float = 1.0
    chunk: bool = False


@dataclass
class _Reading:
    """Pieces so far, and where the brackets that are still open begin: the piece, and the place in the prompt."""

    prompt: str
    pieces: list[Piece] = field(default_factory=list)
    round: list[int] = field(default_factory=list)
    square: list[tuple[int, int]] = field(default_factory=list)

    def add(self, text: str, *, chunk: bool = False) -> None:
        self.pieces.append(Piece(text, 1.0, chunk))

    def words(self, text: str) -> None:
        """Text without a bracket, cut at each BREAK."""
        first, *others = _BREAK.split(text)
        self.add(first)
        for other in others:
            if self.round or self.square:
                raise UsageError(
                    f"The prompt '{self.prompt}' has a BREAK inside brackets; close them before it and open them again."
                )
            self.add(other, chunk=True)

    def weigh(self, start: int, factor: float) -> None:
        """Multiply the weight of every piece from `start` on."""
        for index in range(start, len(self.pieces)):
            piece = self.pieces[index]
            self.pieces[index] = Piece(piece.text, piece.weight * factor, piece.chunk)

    def close_square(self, end: int) -> None:
        start, opened = self.square.pop()
        inside = self.prompt[opened + 1 : end]
        if _EDITING.search(inside):
            raise UsageError(f"'[{inside}]' changes the prompt from step to step, which sfmobile can't do; {_PLAINLY}.")
        self.weigh(start, SQUARE)


def check_syntax(syntax: str) -> None:
    """Raise `UsageError` for a syntax that isn't known."""
    if syntax not in PROMPT_SYNTAXES:
        raise UsageError(f"Prompt syntax '{syntax}' is unknown; expected one of {', '.join(PROMPT_SYNTAXES)}.")


def read(prompt: str) -> tuple[Piece, ...]:
    """The pieces of `prompt` with their weights, neighbours of one weight joined; never none.

    Raises `UsageError` for what the syntax has and sfmobile doesn't, and for a weight that is no number.
    """
    _refuse(prompt)
    reading = _Reading(prompt)
    position = 0
    while position < len(prompt):
        character = prompt[position]
        weight = _WEIGHT.match(prompt, position)
        end = position + 1
        if character == "\\":
            # A backslash before anything else is left out, as there.
            escaped = prompt[end : end + 1]
            taken = escaped if escaped and escaped in _BRACKETS else ""
            reading.add(taken)
            end += len(taken)
        elif character == "(":
            reading.round.append(len(reading.pieces))
        elif character == "[":
            reading.square.append((len(reading.pieces), position))
        elif weight is not None:
            end = weight.end()
            if reading.round:
                reading.weigh(reading.round.pop(), _number(prompt, weight[1]))
            else:
                reading.add(weight[0])
        elif character == ")" and reading.round:
            reading.weigh(reading.round.pop(), ROUND)
        elif character == "]" and reading.square:
            reading.close_square(position)
        elif character in ":)]":
            reading.add(character)
        else:
            while end < len(prompt) and prompt[end] not in "()[]\\:":
                end += 1
            reading.words(prompt[position:end])
        position = end
    for start in reading.round:
        reading.weigh(start, ROUND)
    for start, _ in reading.square:
        reading.weigh(start, SQUARE)
    return _joined(reading.pieces)


def _refuse(prompt: str) -> None:
    network = _NETWORK.search(prompt)
    if network is not None:
        raise UsageError(
            f"'{network[0]}' changes a model's weights, which an export fixes; lay it over the checkpoint there "
            "(--lora FILE:SCALE) and leave it out of the prompt."
        )
    if _AND.search(prompt):
        raise UsageError(
            f"AND in '{prompt}' puts several pictures together, which sfmobile can't do; write it small, or take the "
            "prompt as it stands: --prompt-syntax plain."
        )


def _number(prompt: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.inf
    if not math.isfinite(weight):
        raise UsageError(f"The weight '{text}' in '{prompt}' is no number; expected one such as (word:1.3).")
    return weight


def _joined(pieces: list[Piece]) -> tuple[Piece, ...]:
    joined: list[Piece] = []
    for piece in pieces or [Piece("")]:
        if joined and not piece.chunk and joined[-1].weight == piece.weight:
            joined[-1] = Piece(joined[-1].text + piece.text, piece.weight, joined[-1].chunk)
        else:
            joined.append(piece)
    return tuple(joined)
