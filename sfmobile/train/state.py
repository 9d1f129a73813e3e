"""Training state on disk: safetensors for tensors, JSON for numbers, replaced atomically, never pickles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfmobile.errors import ArtifactError


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file beside `path` and rename it into place, so that a kill leaves the old one whole."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(path.name + ".partial")
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, staged, dict(metadata or {})
    )
    staged.replace(path)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; `ArtifactError` if it is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{path}: expected the result of an earlier stage, found no such file; run it first."
        ) from error
    except SafetensorError as error:
        raise ArtifactError(
            f"{path}: expected a whole safetensors file, found a damaged one ({error}); delete it."
        ) from error


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """AdamW's moments by parameter name."""
    tensors: dict[str, Tensor] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, parameter in zip(names, parameters, strict=True):
        for key, value in optimizer.state[parameter].items():
            tensors[f"{name}:{key}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    return tensors


def load_optimizer(optimizer: torch.optim.Optimizer, names: list[str], tensors: Mapping[str, Tensor]) -> None:
    """Put moments written by `optimizer_tensors` back."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, parameter in zip(names, parameters, strict=True):
        for key in ("step", "exp_avg", "exp_avg_sq"):
            if f"{name}:{key}" in tensors:
                value = tensors[f"{name}:{key}"]
                # The step counter stays where AdamW keeps it: on the CPU unless the optimiser is fused.
                fused = bool(optimizer.defaults.get("fused"))
                device = parameter.device if key != "step" or fused else torch.device("cpu")
                optimizer.state[parameter][key] = value.to(device)


def write_json(path: Path, value: Any) -> None:
    """Write JSON beside `path` and rename it into place."""
    staged = path.with_name(path.name + ".partial")
    staged.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    staged.replace(path)
