"""Epsilons, axes and scales of a program, against what the network's modules say."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfmobile.bundle.choices import ComponentName
from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.pipeline import TEXT_TO_IMAGE
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.verify.attributes import attribute_faults
from sfmobile.verify.divergence import component_program
from sfmobile.verify.mutants.mutant import write_mutant
from sfmobile.verify.mutants.package import package_mutants


def faults(bundle: Bundle, checkpoint: Checkpoint, name: ComponentName) -> list[str]:
    return attribute_faults(component_program(bundle, name), checkpoint.load(name, None))


@pytest.mark.parametrize("name", TEXT_TO_IMAGE)
def test_whole_bundles_have_their_modules_attributes(
    name: ComponentName, tiny_bundle: Bundle, tiny_palettized_bundle: Bundle, tiny_checkpoint: Checkpoint
) -> None:
    for bundle in (tiny_bundle, tiny_palettized_bundle):
        assert faults(bundle, tiny_checkpoint, name) == []


@pytest.mark.parametrize("name", TEXT_TO_IMAGE)
def test_every_wrong_number_is_named_with_what_it_should_be(
    name: ComponentName, tiny_palettized_bundle: Bundle, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """An epsilon of 1e-5 made 8e-5 beside a large variance leaves an output at more than 95 dB."""
    kinds = ("an epsilon wrong", "a scale wrong", "a norm's own number wrong", "activation approximated")
    drawn = dict.fromkeys(kinds, 0)
    for number, mutant in enumerate(package_mutants(tiny_palettized_bundle, name, 12, seed=1, kinds=kinds)):
        if mutant.kind == "a scale wrong" and "att" not in mutant.detail:
            # An activation's own number, which the programs show.
            continue
        drawn[mutant.kind] += 1
        (found,) = faults(write_mutant(tiny_palettized_bundle, mutant, tmp_path / str(number)), tiny_checkpoint, name)
        assert any(
            words in found for words in ("has the epsilon", "scales by", "has a mean", "has a variance", "approximated")
        ), found
    assert drawn["an epsilon wrong"] and (name == "text_encoder" or drawn["a norm's own number wrong"])


def test_a_place_of_a_mask_that_is_open_is_counted(
    tiny_palettized_bundle: Bundle, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """One that draws no weight on any input is seen by no output."""
    (mutant, *_) = package_mutants(tiny_palettized_bundle, "text_encoder", 1, seed=1, kinds=("a mask open",))
    found = faults(write_mutant(tiny_palettized_bundle, mutant, tmp_path / "open"), tiny_checkpoint, "text_encoder")
    assert any("differs from its module's in 1 of 5929 places" in one for one in found), found
