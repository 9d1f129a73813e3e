"""What a bundle claims to be, apart from what compression lost: whole bundles pass, single faults don't."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sfmobile.bench.report import Exactness
from sfmobile.bundle.choices import ComponentName
from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.export.options import ExportOptions
from sfmobile.observer import Observer
from sfmobile.runtime.torch import TorchRuntime
from sfmobile.sampling.pipeline import Request
from sfmobile.verify.exactness import EXACT_GATE_DB, prove_exact
from sfmobile.verify.excitation import exciting_inputs
from sfmobile.verify.mutants import Mutant, manifest_mutants, package_mutants, write_mutant
from sfmobile.verify.verification import Reference, record_reference
from tests.exported import export_tiny


@pytest.fixture(scope="module")
def reference(tiny_palettized_bundle: Bundle, tiny_checkpoint: Checkpoint) -> Reference:
    runtime = TorchRuntime(tiny_palettized_bundle, tiny_checkpoint)
    return record_reference(tiny_palettized_bundle, runtime, [Request("a red apple", steps=2)], lambda _: None)


@pytest.fixture
def proved(tiny_checkpoint: Checkpoint, reference: Reference) -> Callable[[Bundle], Exactness]:
    return lambda bundle: prove_exact(bundle, tiny_checkpoint, reference, Observer())


def test_exactness_is_the_same_whatever_the_bits(
    tiny_palettized_bundle: Bundle, tiny_checkpoint: Checkpoint, proved: Callable[[Bundle], Exactness], tmp_path: Path
) -> None:
    plain = export_tiny(tiny_checkpoint, tmp_path / "plain", ExportOptions(guidance_batch=1))
    two = export_tiny(tiny_checkpoint, tmp_path / "two", ExportOptions(bits=2, guidance_batch=1))
    grouped = ExportOptions(bits=4, group_size=8, target="ios18", guidance_batch=1)
    for bundle in (tiny_palettized_bundle, plain, two, export_tiny(tiny_checkpoint, tmp_path / "grouped", grouped)):
        found = proved(bundle)
        assert found.passed and list(found.failures()) == []
        for name, component in found.components.items():
            assert component.worst is not None and component.worst.closeness > EXACT_GATE_DB
            compressed = bundle.manifest.components[name].compression is not None
            assert (component.weights.compressed > 0) == compressed
            assert (component.weights.worst_error is None) == (not compressed)


@pytest.mark.parametrize("component", ["text_encoder", "unet", "decoder"])
def test_single_faults_in_packages_are_caught(
    component: ComponentName,
    tiny_palettized_bundle: Bundle,
    proved: Callable[[Bundle], Exactness],
    tmp_path: Path,
) -> None:
    """One of each kind. What changes nothing (a zero's sign, equal channels exchanged) isn't drawn at this seed."""
    survivors: list[Mutant] = []
    for number, mutant in enumerate(package_mutants(tiny_palettized_bundle, component, 14, seed=3)):
        if mutant.kind == "a number wrong":
            continue
        found = proved(write_mutant(tiny_palettized_bundle, mutant, tmp_path / str(number)))
        if found.passed:
            survivors.append(mutant)
    assert [str(mutant) for mutant in survivors] == []


def test_every_wrong_constant_of_the_manifest_is_named(
    tiny_palettized_bundle: Bundle, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    from sfmobile.verify.constants import constant_faults

    assert constant_faults(tiny_palettized_bundle, tiny_checkpoint) == []
    for number, mutant in enumerate(manifest_mutants(tiny_palettized_bundle)):
        found = constant_faults(write_mutant(tiny_palettized_bundle, mutant, tmp_path / str(number)), tiny_checkpoint)
        assert len(found) == 1, mutant
        if mutant.kind == "manifest":
            assert mutant.detail.split(" is ")[0] in found[0]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("two channels exchanged", "in another order"),
        ("values scaled", r"times 1\.1"),
        ("signs turned", "signs turned"),
        ("table scaled", r"times 1\.05"),
    ],
)
def test_a_wrong_weight_is_named_with_what_it_looks_like(
    kind: str, words: str, tiny_palettized_bundle: Bundle, proved: Callable[[Bundle], Exactness], tmp_path: Path
) -> None:
    import re

    mutants = package_mutants(tiny_palettized_bundle, "unet", 60, seed=5)
    mutant = next(one for one in mutants if one.kind == kind and "_weight" in one.detail)
    (failure,) = (
        proved(write_mutant(tiny_palettized_bundle, mutant, tmp_path / "mutant")).components["unet"].weights.faults
    )
    assert re.search(words, failure), failure


def test_excitation_reads_the_vocabulary_and_gives_each_row_its_own_time(tiny_bundle: Bundle) -> None:
    manifest = tiny_bundle.manifest
    ids = [found["input_ids"] for found in exciting_inputs(manifest, "text_encoder", [])]
    assert len({int(one) for row in ids for one in row.flat}) > 100
    for found in exciting_inputs(manifest, "unet", []):
        first, second = found["time_embedding"]
        assert (first != second).any() and (
            found["encoder_hidden_states"][0] != found["encoder_hidden_states"][1]
        ).any()
