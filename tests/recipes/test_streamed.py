"""A network whose weights are read layer by layer computes, and is judged, as one in memory."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.compress.recipe import LayerRecipe
from sfmobile.recipes import signal
from sfmobile.recipes.sensitivity import SampleCall, SampleRun, measure_changes
from sfmobile.recipes.signal import StoredNetwork
from sfmobile.recipes.storages import palettize_layers

CANDIDATES = [LayerRecipe(bits=bits) for bits in (1, 2, 4)]


def inputs(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"latents": (2, 4, 8, 8), "time_embedding": (2, 32, 1, 1), "encoder_hidden_states": (2, 32, 1, 77)}
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


@pytest.fixture
def networks(tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> tuple[StoredNetwork, StoredNetwork]:
    whole = StoredNetwork(tiny_checkpoint, "unet")
    monkeypatch.setattr(signal, "MOST_IN_MEMORY", 0)
    streamed = StoredNetwork(tiny_checkpoint, "unet")
    assert whole.stream is None and streamed.stream is not None
    return whole, streamed


def is_empty(network: StoredNetwork) -> bool:
    return all(parameter.is_meta for parameter in network.net.parameters())


def test_it_computes_the_same_in_every_storage_and_back(networks: tuple[StoredNetwork, StoredNetwork]) -> None:
    given = inputs(0)
    originals = [network.predict(given)["model_output"] for network in networks]
    np.testing.assert_array_equal(*originals)
    for network in networks:
        network.store(dict.fromkeys(network.shapes, LayerRecipe(bits=2)))
    changed = [network.predict(given)["model_output"] for network in networks]
    np.testing.assert_array_equal(*changed)
    assert np.abs(changed[0] - originals[0]).max() > 1e-3
    networks[1].restore()
    np.testing.assert_array_equal(networks[1].predict(given)["model_output"], originals[0])
    assert is_empty(networks[1])


def test_sensitivities_are_those_of_gradients_in_memory(networks: tuple[StoredNetwork, StoredNetwork]) -> None:
    samples = [
        SampleRun((SampleCall(inputs(seed), np.array([-0.5, 1.5], np.float32), "latents", 0.9),), 0.1)
        for seed in (0, 1)
    ]
    found = []
    for network in networks:
        layers = palettize_layers(network.weights(), CANDIDATES)
        palettes = {name: layer.palettes for name, layer in layers.items()}
        found.append(measure_changes(network.net, palettes, samples, seed=3, stream=network.stream))
    assert found[0].keys() == found[1].keys()
    for name, changes in found[0].items():
        np.testing.assert_allclose(found[1][name], changes, rtol=2e-3, err_msg=name)
    assert is_empty(networks[1])


def test_several_calls_add_up_but_for_what_steadies_the_estimate(
    networks: tuple[StoredNetwork, StoredNetwork],
) -> None:
    rows = np.array([-0.5, 1.5], np.float32)
    sample = SampleRun(tuple(SampleCall(inputs(seed), rows, "latents", 0.9) for seed in range(3)), 0.1)
    totals = []
    for network in networks:
        layers = palettize_layers(network.weights(), CANDIDATES)
        palettes = {name: layer.palettes for name, layer in layers.items()}
        changes = measure_changes(network.net, palettes, [sample], stream=network.stream)
        totals.append(sum(float(change[1]) for change in changes.values()))
    assert abs(math.log2(totals[0] / totals[1])) < 0.5


def test_it_holds_no_gradient_and_no_graph_behind_a_call(networks: tuple[StoredNetwork, StoredNetwork]) -> None:
    stream = networks[1].stream
    assert stream is not None
    seen: list[str] = []
    stream.wanted, stream.take = ("conv_in.weight",), lambda key, gradient: seen.append(key)
    arguments = {name: torch.from_numpy(value) for name, value in inputs(0).items()}
    with torch.enable_grad():
        networks[1].net(**{**arguments, "latents": arguments["latents"].requires_grad_(True)}).sum().backward()
    assert seen == ["conv_in.weight"] and is_empty(networks[1])
