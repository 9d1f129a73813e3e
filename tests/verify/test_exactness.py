"""What a bundle claims to be, apart from what compression lost: whole bundles pass, single faults don't."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sfmobile.bench.verify_report import ExactAgreement
from sfmobile.bundle.choices import ComponentName
from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.pipeline import TEXT_TO_IMAGE
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.compress.recipe import ComponentRecipe, LayerRecipe, Recipe, compressible
from sfmobile.export.options import ExportOptions
from sfmobile.observer import Observer
from sfmobile.verify import weights
from sfmobile.verify.constants import constant_faults
from sfmobile.verify.exactness import EXACT_GATE_DB, QUICK, THOROUGH, by_function, look, prove_component
from sfmobile.verify.excitation import exciting_inputs
from sfmobile.verify.mutants.manifest import manifest_mutants
from sfmobile.verify.mutants.mutant import Mutant, write_mutant
from sfmobile.verify.mutants.package import package_mutants
from sfmobile.verify.weights import Known
from tests.exported import MULTIFUNCTION, SharedExports

Prove = Callable[..., ExactAgreement]


@pytest.fixture(scope="module")
def prove(tiny_checkpoint: Checkpoint) -> Prove:
    """On inputs that excite the component alone."""
    return lambda bundle, name, how=THOROUGH: prove_component(bundle, tiny_checkpoint, name, [], Observer(), how)


def test_exactness_is_the_same_whatever_the_bits(
    tiny_bundle: Bundle, tiny_palettized_bundle: Bundle, tiny_exports: SharedExports, prove: Prove
) -> None:
    grouped = ExportOptions(bits=4, group_size=8, target="ios18", guidance_batch=1)
    for bundle in (tiny_bundle, tiny_palettized_bundle, tiny_exports(grouped)):
        for name in TEXT_TO_IMAGE:
            component = prove(bundle, name)
            assert component.passed and list(component.failures(name)) == []
            assert component.worst is not None and component.worst.closeness > EXACT_GATE_DB
            compressed = bundle.manifest.components[name].compression is not None
            assert (component.weights.compressed > 0) == compressed
            assert (component.weights.worst_error is None) == (not compressed)
            assert component.operations is not None and component.operations > 20 and component.unreached == ()


@pytest.mark.parametrize("component", TEXT_TO_IMAGE)
def test_single_faults_in_packages_are_caught(
    component: ComponentName, tiny_palettized_bundle: Bundle, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """One of each kind. What changes nothing (a zero's sign, equal channels exchanged) isn't drawn at this seed."""
    survivors: list[Mutant] = []
    # The source's best tables are the same whatever the fault.
    known = Known()
    for number, mutant in enumerate(package_mutants(tiny_palettized_bundle, component, 14, seed=3)):
        copy = write_mutant(tiny_palettized_bundle, mutant, tmp_path / str(number))
        looked = look(copy, tiny_checkpoint, component, Observer(), known.of_another_package())
        if looked.weights.faults or looked.attributes:
            continue
        if prove_component(copy, tiny_checkpoint, component, [], Observer(), QUICK, looked).passed:
            survivors.append(mutant)
    assert [str(mutant) for mutant in survivors] == []


def test_every_wrong_constant_of_the_manifest_is_named(
    tiny_palettized_bundle: Bundle, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
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
    kind: str, words: str, tiny_palettized_bundle: Bundle, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    mutants = package_mutants(tiny_palettized_bundle, "unet", 20, seed=5, kinds=[kind])
    mutant = next(one for one in mutants if "_weight" in one.detail)
    copy = write_mutant(tiny_palettized_bundle, mutant, tmp_path / "mutant")
    (failure,) = prove_component(copy, tiny_checkpoint, "unet", [], Observer(), QUICK).weights.faults
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


def test_layers_of_a_recipe_keep_to_its_bits(tiny_exports: SharedExports, tiny_checkpoint: Checkpoint) -> None:
    kernels = [key for key, shape in tiny_checkpoint.shapes("decoder").items() if compressible(key, shape)]
    first, second, *_ = (key.removesuffix(".weight") for key in kernels)
    layers = {first: LayerRecipe(bits=4), second: LayerRecipe(bits=16)}
    recipe = Recipe(default=LayerRecipe(bits=6), components={"decoder": ComponentRecipe(layers=layers)})
    bundle = tiny_exports(ExportOptions(recipe=recipe, components=("decoder",)))
    assert look(bundle, tiny_checkpoint, "decoder", Observer()).weights.faults == ()
    # The same packages of a bundle that says otherwise.
    other = recipe.model_copy(update={"components": {}})
    options = {**bundle.manifest.options, "compression": other.model_dump(mode="json")}
    claimed = Bundle(bundle.root, bundle.manifest.model_copy(update={"options": options}))
    faults = [str(fault) for fault in look(claimed, tiny_checkpoint, "decoder", Observer()).weights.faults]
    assert faults == [
        f"weight '{first}.weight': stored as 4 bits, expected 6 bits",
        f"weight '{second}.weight': stored as float16, expected 6 bits",
    ]


def test_every_function_of_a_package_is_proven(
    tiny_exports: SharedExports, tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = dict(by_function(tiny_exports(MULTIFUNCTION), "unet"))
    assert len(found) == 4 and next(iter(found)) == "unet"
    label, last = list(found.items())[-1]
    record = last.manifest.components["unet"]
    assert label == f"unet ({record.function})" and record.inputs[0].shape == (1, 4, 8, 16)
    proof = prove_component(last, tiny_checkpoint, "unet", [], Observer(), QUICK)
    assert proof.passed and proof.worst is not None and (proof.worst.psnr_db or 0) > EXACT_GATE_DB
    # What functions share is clustered and decoded once.
    known = Known()
    first = look(found["unet"], tiny_checkpoint, "unet", Observer(), known).weights
    monkeypatch.setattr(weights, "decode", lambda constant: pytest.fail("decoded again"))
    assert look(last, tiny_checkpoint, "unet", Observer(), known).weights == first
