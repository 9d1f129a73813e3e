"""What the Makefile's recipes say fits the commands that they call."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from sfmobile.sampling.grid import Choices, file_name
from tests.tiny import REPOSITORY

OPTIONS_OF_ONE = ("--seed", "--image", "--mask", "--strength", "-o", "--sheet", "--compare-samplers", "--compare-steps")


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_the_demo_reads_the_pictures_that_it_has_drawn() -> None:
    """Names of pictures depend on how many there are."""
    said = subprocess.run(["make", "-n", "demo"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    written: set[str] = set()
    read: set[str] = set()
    for line in said.splitlines():
        words = shlex.split(line) if "sfmobile generate" in line else []
        if words:
            given = {words[index]: words[index + 1] for index in range(len(words)) if words[index] in OPTIONS_OF_ONE}
            taken = {index + 1 for index, word in enumerate(words) if word in OPTIONS_OF_ONE}
            plain = [word for index, word in enumerate(words) if not word.startswith("-") and index not in taken]
            prompts = tuple(plain[3:])  # The program, the command and the bundle are in front.
            assert not {given.get("--image"), given.get("--mask")} - {None} - written - {"out/lower-half.png"}, line
            read.update(filter(None, (given.get("--image"),)))
            output = Path(given["-o"])
            for one in Choices(prompts, (0,), (None,), (None,)).variants():
                written.add(str(file_name(output, one, len(prompts))))
    assert read and written
