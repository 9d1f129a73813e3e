"""Names of constants, held to what the exporter really writes."""

from __future__ import annotations

import pytest

from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.mlpackage.graph import Graph
from sfmobile.mlpackage.names import constant_name, layer_constant, origin, palettized_name
from sfmobile.mlpackage.program import load_program


@pytest.mark.parametrize("bundle", ["tiny_bundle", "tiny_palettized_bundle"])
@pytest.mark.parametrize("component", ["text_encoder", "unet", "decoder"])
def test_every_weight_of_a_network_is_found_in_its_program(
    bundle: str, component: str, tiny_checkpoint: Checkpoint, request: pytest.FixtureRequest
) -> None:
    exported: Bundle = request.getfixturevalue(bundle)
    weights = tiny_checkpoint.state_dict(component)  # type: ignore[arg-type]
    names = {constant_name(key): key for key in weights}
    graph = Graph(load_program(exported.package(component)))  # type: ignore[arg-type]
    found: dict[str, str] = {}
    for name, constant in graph.program.constants.items():
        stem = origin(name, names)
        if stem is not None and constant.type.elements == weights[names[stem]].numel() and name in graph.readers:
            assert names[stem] not in found
            found[names[stem]] = name
    assert set(found) == set(weights)
    if bundle == "tiny_palettized_bundle":
        assert any(name == palettized_name(constant_name(key)) for key, name in found.items())


def test_a_layer_is_named_by_its_weight() -> None:
    assert layer_constant("down_blocks.0.conv1") == "down_blocks_0_conv1_weight"


def test_the_longest_known_name_is_the_origin_and_only_at_an_underscore() -> None:
    known = {"conv_weight", "conv"}
    assert origin("conv_weight_palettized", known) == "conv_weight"
    assert origin("conv_bias", known) == "conv"
    assert origin("convolution", known) is None
    assert origin("conv_weights", {"conv_weight"}) is None
