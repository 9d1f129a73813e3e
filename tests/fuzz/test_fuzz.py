"""The short run: some cases of every format, and every file that was once read wrongly."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.__main__ import CRASHES, case
from tests.fuzz.formats import FORMATS
from tests.fuzz.judge import judge

KEPT = sorted(path.relative_to(CRASHES).as_posix() for path in CRASHES.glob("*/*"))


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with the real file of a format; formats that are prepared alike share one."""

    @cache
    def prepared(prepare: Callable[[Path], object]) -> Path:
        folder: Path = tmp_path_factory.mktemp("real")
        prepare(folder)
        return folder

    def copied(name: str) -> Path:
        folder: Path = tmp_path_factory.mktemp("fuzzed") / "files"
        return Path(shutil.copytree(prepared(FORMATS[name].prepare), folder))

    return copied


@pytest.mark.parametrize("name", FORMATS)
def test_the_real_file_is_read(name: str, real: Callable[[str], Path]) -> None:
    """Else every change of it would be refused for one and the same reason."""
    folder = real(name)
    verdict = judge(lambda: FORMATS[name].read(folder), ())
    assert verdict.code == 0 and verdict.fault is None, verdict


@pytest.mark.parametrize("name", FORMATS)
def test_a_changed_file_gives_a_result_or_one_sentence(name: str, real: Callable[[str], Path]) -> None:
    form, folder = FORMATS[name], real(name)
    whole = (folder / form.file).read_bytes()

    @settings(
        max_examples=form.examples, derandomize=True, deadline=None, database=None, suppress_health_check=[*HealthCheck]
    )
    @given(number=st.integers(0, 2**32))
    def hold(number: int) -> None:
        (folder / form.file).write_bytes(case(form, whole, number))
        verdict = judge(lambda: form.read(folder), form.codes)
        assert verdict.fault is None, verdict

    hold()


@pytest.mark.parametrize("kept", KEPT)
def test_what_was_once_read_wrongly_is_read_rightly(kept: str, real: Callable[[str], Path]) -> None:
    name = kept.split("/")[0]
    form, folder = FORMATS[name], real(name)
    shutil.copyfile(CRASHES / kept, folder / form.file)
    verdict = judge(lambda: form.read(folder), form.codes)
    assert verdict.fault is None, verdict
