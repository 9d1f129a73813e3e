"""Settings files are read strictly, and what is wrong is named."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Literal

import pytest

from sfmobile.errors import UsageError
from sfmobile.train.config import LoopConfig, parse_config, read_config

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
    path.write_text(json.dumps(asdict(config)))
    assert read_config(Every, path) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepz": 1}, "unknown key 'stepz'; Every knows loop, mode, names, on, shares, span"),
        ({"loop": {**LOOP, "lr": 1}}, "loop: unknown key 'lr'"),
        ({"loop": {"steps": 1}}, "loop: key 'batch_size' is missing"),
        ({"mode": "c"}, "mode: expected 'a' or 'b', found 'c'"),
        ({"span": [1.0]}, "span: 1: expected a further value, found [1.0]"),
        ({"span": [1.0, 2.0, 3.0]}, "span: Tuple should have at most 2 items after validation, not 3"),
        ({"span": 3}, "span: expected a valid array, found 3"),
        ({"on": 1}, "on: expected a valid boolean, found 1"),
        ({"names": [1]}, "names: 0: expected a valid string, found 1"),
        ({"loop": {**LOOP, "steps": "ten"}}, "loop: steps: expected a valid integer, found 'ten'"),
        ({"loop": {**LOOP, "steps": True}}, "loop: steps: expected a valid integer, found True"),
        ({"loop": {**LOOP, "steps": 10.0}}, "loop: steps: expected a valid integer, found 10.0"),
        ({"loop": {**LOOP, "learning_rate": "1"}}, "loop: learning_rate: expected a valid number, found '1'"),
        ({"loop": {**LOOP, "learning_rate": True}}, "loop: learning_rate: expected a valid number, found True"),
        ({"shares": {"plain": "half"}}, "shares: plain: expected a valid number, found 'half'"),
        ({"loop": 5}, "loop: expected an object, found 5"),
    ],
)
def test_a_wrong_setting_is_named(change, message):
    with pytest.raises(UsageError, match=rf"^{re.escape(f'every.json: {message}')}"):
        parse_config(Every, {"loop": LOOP, **change}, "every.json")


def test_an_integer_will_do_for_a_number():
    config = parse_config(Every, {"loop": {**LOOP, "learning_rate": 1}, "span": [1, 2]}, "every.json")
    assert (config.loop.learning_rate, config.span) == (1.0, (1.0, 2.0))
    assert isinstance(config.loop.learning_rate, float)


def test_what_is_no_object_is_refused():
    with pytest.raises(UsageError, match=r"^every\.json: expected an object, found \[\]\.$"):
        parse_config(Every, [], "every.json")


def test_a_missing_file_and_a_broken_one_are_told_apart(tmp_path):
    with pytest.raises(UsageError, match=r"none\.json' doesn't exist: expected a JSON config"):
        read_config(Every, tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UsageError, match=r"broken\.json' is not JSON"):
        read_config(Every, tmp_path / "broken.json")
