"""Counter-based randomness: what a step draws depends on its number alone, so a resumed run repeats it."""

from __future__ import annotations

import hashlib

import torch


def generator_for(device: torch.device, *key: int | str) -> torch.Generator:
    """A generator on `device`, seeded by a hash of `key` (stage, seed, step, rank, ...)."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    generator = torch.Generator(device=device)
    generator.manual_seed(int.from_bytes(digest[:8], "little") & (2**63 - 1))
    return generator
