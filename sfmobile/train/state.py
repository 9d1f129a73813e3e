"""Tensors on disk: safetensors with what they are in their metadata, written whole or not at all, never pickles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfmobile.errors import ArtifactError, UnavailableError
from sfmobile.files import atomic_write


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all: tensors and metadata in one commit; the folder is made.

    Raises `UnavailableError` if the disk is full, `UsageError` if `path` can't be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as draft:
        try:
            save_file(held, draft, dict(metadata or {}))
        # safetensors turns the system's errors into its own.
        except SafetensorError as error:
            raise UnavailableError(f"'{path}' was not written ({error}); free some space and run it again.") from error


def load_tensors(path: Path, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file whose names begin with `prefix`, without it, and the file's metadata.

    Raises `ArtifactError` if it is missing or damaged.
    """
    with _opened(path) as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        return {name.removeprefix(prefix): file.get_tensor(name) for name in names}, dict(file.metadata() or {})


def load_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file alone. Raises as `load_tensors` does."""
    with _opened(path) as file:
        return dict(file.metadata() or {})


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
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
