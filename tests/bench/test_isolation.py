from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

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


def test_a_script_that_measures_is_not_run_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "print('once')\n"
        "from sfmobile.bench.isolation import run_isolated\n"
        "from tests.bench.test_isolation import count_to\n"
        "print(run_isolated(count_to, 2)[0])\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[0] == "once" and len(done.stdout.splitlines()) == 2
