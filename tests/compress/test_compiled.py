from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from sfmobile.compress.compiled import compiled

SOURCE = """
def total(numbers):
    found = 0.0
    for number in numbers:
        found += number
    return found
"""


def module(folder: Path) -> ModuleType:
    path = folder / "loops.py"
    if not path.exists():
        path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("loops", path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", [b"", b"\x80\x05", b"not a pickle"])
def test_a_damaged_cache_is_made_anew(
    kind: str, damage: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compiled(module(tmp_path).total)((1.0, 2.0)) == 3.0
    (cached,) = tmp_path.rglob(f"*.{kind}")
    whole = cached.read_bytes()
    cached.write_bytes(damage)
    assert compiled(module(tmp_path).total)((1.0, 2.0)) == 3.0
    assert cached.stat().st_size > len(whole) // 2
    loop = compiled(module(tmp_path).total)
    assert loop((1.0, 2.0)) == 3.0
    assert sum(loop.stats.cache_hits.values()) == 1
