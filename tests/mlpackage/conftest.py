from __future__ import annotations

from pathlib import Path

import pytest

from tests.mlpackage.packages import X, body
from tests.runtime.mil.programs import build_program, save_program


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return save_program(build_program(body, {"x": X}), tmp_path)
