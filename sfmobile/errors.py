"""Errors that teach: one sentence naming the file, what was expected, what was found, and the mend.

Every error a user can cause derives from `SfmobileError`, whose `exit_code` is the process's:
0 ok, 1 a gate failed, 2 usage, 3 this environment can't, 4 an artifact is missing or corrupt.
"""

from __future__ import annotations

from typing import ClassVar

MOST_CHARACTERS = 1500


class SfmobileError(Exception):
    """Base of all expected failures; `str(error)` is the one sentence a user reads.

    It stays one, and can be read, whatever a name or a value out of a file brings into it: lines are joined, and of a
    text beyond `MOST_CHARACTERS` the middle is left out, since the mend stands at the end.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, sentence: str = "") -> None:
        text = " ".join(sentence.splitlines())
        if len(text) > MOST_CHARACTERS:
            text = f"{text[: MOST_CHARACTERS // 2]} … {text[-MOST_CHARACTERS // 3 :]}"
        super().__init__(text)


class GateError(SfmobileError):
    """A measured figure is on the wrong side of its gate."""

    exit_code = 1


class UsageError(SfmobileError):
    """The request itself doesn't make sense: an option, a size, a prompt."""

    exit_code = 2


class UnavailableError(SfmobileError):
    """This environment can't do it: no macOS, no network, a missing package, too little disk."""

    exit_code = 3


class ArtifactError(SfmobileError):
    """A file is missing, truncated, altered, of a forbidden kind, or from a future version."""

    exit_code = 4
