"""The manifest against the golden vectors, without a checkpoint and without a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfmobile.bundle.directory import Bundle
from sfmobile.verify.mutants.manifest import manifest_mutants
from sfmobile.verify.mutants.mutant import write_mutant
from sfmobile.verify.replay import replay_faults


@pytest.mark.parametrize("batch", ["tiny_bundle", "tiny_palettized_bundle"])
def test_whole_bundles_agree_with_their_vectors(batch: str, request: pytest.FixtureRequest) -> None:
    assert replay_faults(request.getfixturevalue(batch)) == []


def test_wrong_constants_are_caught_without_the_checkpoint(tiny_palettized_bundle: Bundle, tmp_path: Path) -> None:
    """All but two: more steps by default than were recorded may be right, and no recorded text has these tokens."""
    survivors = []
    for number, mutant in enumerate(manifest_mutants(tiny_palettized_bundle)):
        if not replay_faults(write_mutant(tiny_palettized_bundle, mutant, tmp_path / str(number))):
            survivors.append(mutant.detail)
    assert survivors == ["pipeline.default_steps is 10", 'ids of !</w> and " exchanged']
