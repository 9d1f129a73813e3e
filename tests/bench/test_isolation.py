from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

import pytest

from sfmobile.bench.isolation import run_isolated
from sfmobile.bundle.directory import BundleError
from sfmobile.errors import ArtifactError, UnavailableError


def count_to(limit: int, advance: Callable[[int], None]) -> tuple[int, bool]:
    for _ in range(limit):
        advance(1)
    print("chatter of a library")
    return os.getpid(), "torch" in sys.modules


def refuse(advance: Callable[[int], None]) -> None:
    raise BundleError("missing_file", "'x' is missing.")


def die(code: int, advance: Callable[[int], None]) -> None:
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)


def test_it_runs_elsewhere_reports_progress_and_keeps_stdout_clean(capfd: pytest.CaptureFixture[str]) -> None:
    pieces: list[int] = []
    process, warmed_up = run_isolated(count_to, 3, advance=pieces.append)
    assert process != os.getpid() and not warmed_up
    assert pieces == [1, 1, 1]
    out, err = capfd.readouterr()
    assert out == "" and "chatter of a library" in err


def test_an_expected_failure_keeps_its_category_and_sentence() -> None:
    with pytest.raises(ArtifactError, match=r"^'x' is missing\.$"):
        run_isolated(refuse)


@pytest.mark.parametrize(("code", "sentence"), [(-signal.SIGKILL, "for its memory"), (7, "code 7")])
def test_a_dead_process_is_an_error_not_a_hang(code: int, sentence: str) -> None:
    with pytest.raises(UnavailableError, match=f"Measuring the unet didn't finish: .*{sentence}"):
        run_isolated(die, code, what="Measuring the unet")
