"""Settings files are read strictly, and what is wrong is named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from sfmobile.errors import UsageError
from sfmobile.train.config import LoopConfig, config_to_json, parse_config, read_config

LOOP = {"steps": 10, "batch_size": 4, "learning_rate": 1e-3}


@dataclass(frozen=True)
class Every:
    """One field of each kind that settings use."""

    loop: LoopConfig
    mode: Literal["a", "b"] = "a"
    span: tuple[float, float] = (0.0, 1.0)
    names: tuple[str, ...] | None = None
    shares: dict[str, float] | None = None
    on: bool = False


def test_what_is_written_is_read_back(tmp_path):
    config = Every(LoopConfig(**LOOP), "b", (1.0, 2.0), ("x", "y"), {"plain": 0.5}, True)
    path = tmp_path / "every.json"
    path.write_text(config_to_json(config))
    assert read_config(Every, path) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepz": 1}, "unknown key 'stepz'"),
        ({"loop": {**LOOP, "lr": 1}}, "unknown key 'lr'"),
        ({"loop": {"steps": 1}}, "key 'batch_size' is missing"),
        ({"mode": "c"}, "expected one of a, b, found 'c'"),
        ({"span": [1.0]}, "expected 2 values, found 1"),
        ({"span": 3}, "expected a list, found 3"),
        ({"on": 1}, "expected bool, found 1"),
        ({"loop": {**LOOP, "steps": "ten"}}, "expected int, found 'ten'"),
        ({"loop": {**LOOP, "steps": True}}, "expected int, found True"),
        ({"shares": {"plain": "half"}}, "shares.plain: expected float, found 'half'"),
        ({"loop": 5}, "expected a JSON object for LoopConfig"),
    ],
)
def test_a_wrong_setting_is_named(change, message):
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        parse_config(Every, {"loop": LOOP, **change}, "every.json")


def test_a_missing_file_and_a_broken_one_are_told_apart(tmp_path):
    with pytest.raises(UsageError, match="found no such file"):
        read_config(Every, tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UsageError, match="doesn't parse"):
        read_config(Every, tmp_path / "broken.json")
