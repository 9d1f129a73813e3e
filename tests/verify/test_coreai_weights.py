"""What an .aimodel stores, weight by weight."""

from __future__ import annotations

import pytest
import torch

import sfmobile
from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.compress.recipe import LayerRecipe
from sfmobile.export.options import COREAI_TARGET, ExportOptions
from sfmobile.verify.exactness import recorded_storage
from sfmobile.verify.weights import StoredWeights
from tests.exported import SharedExports

pytest.importorskip("coreai", reason="Apple's package is for Python 3.11 and later on x86-64 Linux and macOS 27")

from sfmobile.verify.coreai_weights import asset_weights


@pytest.fixture(scope="module")
def bundle(tiny_exports: SharedExports) -> Bundle:
    """3 bits, which are stored in 4."""
    return tiny_exports(ExportOptions(format="coreai", target=COREAI_TARGET, bits=3))


def compared(bundle: Bundle, source: dict[str, torch.Tensor], bits: int | None = None) -> StoredWeights:
    recorded = recorded_storage(bundle.manifest, "unet", {key: tuple(value.shape) for key, value in source.items()})

    def recipe(key: str) -> LayerRecipe | None:
        found = recorded(key)
        return LayerRecipe(bits=bits) if bits is not None and found == LayerRecipe(bits=3) else found

    return asset_weights([bundle.package("unet")], source, recipe)


def test_every_weight_is_found_and_a_wrong_one_is_named(bundle: Bundle, tiny_checkpoint: Checkpoint) -> None:
    source = tiny_checkpoint.state_dict("unet")
    found = compared(bundle, source)
    assert found.faults == () and found.compared == len(source) and found.compressed > 40
    assert found.worst is not None and 0.05 < found.worst[1] < 0.2
    # Palettized, another order of channels; as it is, one value.
    wrong = {key: value.clone() for key, value in source.items()}
    palettized = next(key for key, value in source.items() if value.ndim == 4 and value.shape[0] > 16)
    plain = next(key for key, value in source.items() if value.ndim == 1)
    wrong[palettized][[0, 1]] = wrong[palettized][[1, 0]]
    wrong[plain][0] += 0.5
    faults = {fault.parameter: fault for fault in compared(bundle, wrong).faults}
    assert set(faults) == {palettized, plain}
    assert "in another order" in faults[palettized].detail and "1 of" in faults[plain].detail


def test_fewer_bits_than_recorded_are_found(bundle: Bundle, tiny_checkpoint: Checkpoint) -> None:
    faults = compared(bundle, tiny_checkpoint.state_dict("unet"), bits=4).faults
    assert len(faults) > 40


def test_verify_says_what_it_compared(bundle: Bundle, tiny_checkpoint: Checkpoint) -> None:
    found = sfmobile.verify(
        bundle, source=tiny_checkpoint, component="text_encoder", prompt="a", reference="nets", runtime="coreai"
    )
    assert found.exact is not None and found.exact.passed
    ((name, component),) = found.exact.components.items()
    assert name == "text_encoder"
    assert component.weights_alone and component.weights.parameters == 36 and component.weights.compressed == 4
    assert found.verdict().startswith("Passed: it stores the weights it claims to, ") == found.passed
