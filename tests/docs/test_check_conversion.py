"""The guide's example, executed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from tests.tiny import REPOSITORY

GUIDE = REPOSITORY / "docs" / "check_conversion.md"


@pytest.mark.parametrize(("precision", "least_db"), [("fp32", 60), ("fp16", 45)])
def test_the_example_of_the_guide_holds(precision: str, least_db: float, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert f'("{precision}", {least_db})' in code
    module = lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 3, 3))  # noqa: E731
    names: dict[str, Any] = {"MyModule": module}
    exec(code, names)
    names["test_the_conversion_computes_what_the_module_does"](tmp_path, precision, least_db)
