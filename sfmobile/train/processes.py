"""The processes of an accelerate launch: which one this is, of how many. Alone, it is the first of one."""

from __future__ import annotations

import torch


def _launched() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def rank() -> int:
    """This process's number; the first writes files."""
    return torch.distributed.get_rank() if _launched() else 0


def count() -> int:
    """How many there are."""
    return torch.distributed.get_world_size() if _launched() else 1


def wait() -> None:
    """Until all of them are here."""
    if _launched():
        torch.distributed.barrier()


def gathered(part: dict[str, float]) -> dict[str, float]:
    """The entries of all processes together."""
    if not _launched():
        return part
    parts: list[dict[str, float] | None] = [None] * count()
    torch.distributed.all_gather_object(parts, part)
    return {name: value for one in parts if one is not None for name, value in one.items()}
