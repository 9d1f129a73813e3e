"""The benchmark of families, narrow: a checkpoint is written and read as diffusers reads it."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks.families import FAMILIES, GATE_DB, compare, make

NARROW = argparse.Namespace(narrow=10, latent_size=8)


@pytest.mark.parametrize("name", ["sd2", "lcm"])
def test_a_familys_unet_is_diffusers(name: str, tmp_path: Path) -> None:
    make(FAMILIES[name], tmp_path, NARROW)
    assert compare(FAMILIES[name], tmp_path, NARROW)["psnr_db"] >= GATE_DB
