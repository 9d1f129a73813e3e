"""Stage settings: frozen dataclasses read from JSON files, strict about every key and type."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from types import GenericAlias
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from sfmobile.errors import UsageError
from sfmobile.files import read_json

Config = TypeVar("Config")

# JSON's own types and no others: an integer will do for a number, nothing else is turned into what it isn't.
STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class LoopConfig:
    """How a stage is optimised: AdamW, warm-up, then a constant rate that falls linearly over the last part.

    batch_size is per process and per micro step; `decay_fraction` is the share of steps over which the learning
    rate falls to zero; `ema_decay` 0 turns the exponential moving average off.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 100
    decay_fraction: float = 0.3
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    gradient_accumulation: int = 1
    ema_decay: float = 0.999
    precision: Literal["no", "bf16", "fp16"] = "bf16"
    compile: bool = False
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 1000


def read_config(kind: type[Config], path: Path) -> Config:
    """Read a JSON file into the dataclass `kind`; unknown or missing keys and wrong types raise `UsageError`."""
    raw = read_json(path, f"a JSON config ({kind.__name__})", "name a file that is one", error=UsageError)
    return parse_config(kind, raw, str(path))


def parse_config(kind: type[Config], raw: object, where: str) -> Config:
    """Build the dataclass `kind` from a JSON-like value; `where` names the place in errors."""
    # In a tuple, because pydantic lets a dataclass of the standard library have its settings from above only; as JSON,
    # because its strictness knows that JSON has lists alone.
    boxed: Any = GenericAlias(tuple, (kind,))
    try:
        value: Config = TypeAdapter(boxed, config=STRICT).validate_json(json.dumps([raw]))[0]
        return value
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = [str(part) for part in first["loc"][1:]]
        raise UsageError(f"{where}: {_complaint(kind, first['type'], first['msg'], place, first['input'])}.") from error


def _complaint(kind: type[Any], fault: str, message: str, place: list[str], found: object) -> str:
    """What is wrong, key by key from the top, in words."""
    *above, last = place or [""]
    inside = "".join(f"{part}: " for part in above)
    if fault == "unexpected_keyword_argument":
        known = "" if above else f"; {kind.__name__} knows {', '.join(sorted(field.name for field in fields(kind)))}"
        return f"{inside}unknown key '{last}'{known}"
    if fault == "missing" and not last.isdigit():
        return f"{inside}key '{last}' is missing"
    expected = message.replace("Input should be", "expected").replace("Field required", "expected a further value")
    return f"{inside}{last}{': ' if last else ''}{expected}, found {found!r}"
