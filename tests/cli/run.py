"""Run the command line in this process, as a user's shell would see it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sfmobile.cli.main import main


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line of an error."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, f"expected one error line, found {len(lines)} in:\n{self.err}"
        return lines[0].removeprefix("error: ")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Outcome:
    """Run `sfmobile ARGUMENTS` and capture both streams."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    code = end.value.code
    return Outcome(code if isinstance(code, int) else int(code is not None), out, err)
