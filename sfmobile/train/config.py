"""Stage settings: frozen dataclasses read from JSON files, strict about every key."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from sfmobile.errors import UsageError

Config = TypeVar("Config")


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
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: expected a JSON config for this stage, found no such file.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: expected a JSON config, found text that doesn't parse ({error}).") from error
    return parse_config(kind, raw, str(path))


def parse_config(kind: type[Config], raw: object, where: str) -> Config:
    """Build the dataclass `kind` from a mapping; `where` names the place in errors."""
    if not isinstance(raw, Mapping):
        raise UsageError(f"{where}: expected a JSON object for {kind.__name__}, found {type(raw).__name__}.")
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, kind))}
    unknown = sorted(set(raw) - set(fields))
    if unknown:
        raise UsageError(f"{where}: unknown key '{unknown[0]}'; {kind.__name__} knows {', '.join(sorted(fields))}.")
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in raw:
            values[name] = _parse_value(hints[name], raw[name], f"{where}: {name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UsageError(f"{where}: key '{name}' is missing; {kind.__name__} needs it.")
    return kind(**values)


def _parse_value(hint: Any, value: object, where: str) -> object:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return parse_config(hint, value, where)
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise UsageError(f"{where}: expected one of {', '.join(map(str, typing.get_args(hint)))}, found {value!r}.")
        return value
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        return _parse_union([option for option in options if option is not type(None)], value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise UsageError(f"{where}: expected a list, found {value!r}.")
        arguments = typing.get_args(hint)
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(value):
            raise UsageError(f"{where}: expected {len(kinds)} values, found {len(value)}.")
        return tuple(_parse_value(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise UsageError(f"{where}: expected an object, found {value!r}.")
        return {key: _parse_value(typing.get_args(hint)[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise UsageError(f"{where}: expected {hint.__name__}, found {value!r}.")
    return value


def _parse_union(options: list[Any], value: object, where: str) -> object:
    """The first of `options` that `value` fits; the last one's complaint if none."""
    if len(options) == 1:
        return _parse_value(options[0], value, where)
    try:
        return _parse_value(options[0], value, where)
    except UsageError:
        return _parse_union(options[1:], value, where)


def config_to_json(config: Any) -> str:
    """The JSON text that `read_config` turns back into `config`."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"
