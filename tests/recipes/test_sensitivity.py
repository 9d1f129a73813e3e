from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from sfmobile.compress.palettize import palettize_weight
from sfmobile.compress.recipe import LayerRecipe, compressible_layers
from sfmobile.nets.unet import UNet
from sfmobile.recipes.sensitivity import (
    PRIOR,
    Palettes,
    SampleCall,
    SampleRun,
    backward,
    measure_changes,
    project,
)
from sfmobile.recipes.storages import palettize_layers
from tests.tiny import TINY_UNET


class Denoiser(nn.Module):
    """Two layers with a bend in between, and one that the output doesn't depend on."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(2, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 2, 3, padding=1)
        self.unused = nn.Conv2d(2, 8, 1)
        for layer in (self.first, self.second, self.unused):
            layer.weight.data = (2 * layer.weight.data).half().float()

    def forward(self, latents: Tensor, shift: Tensor) -> Tensor:
        output: Tensor = self.second(torch.tanh(self.first(latents + shift)))
        return output


LAYERS = ("first", "second")
# At 6 bits and more the few weights of these layers would be exact.
CANDIDATES = [*(LayerRecipe(bits=bits) for bits in (1, 2, 3, 4)), LayerRecipe(bits=2, group_size=4)]


def run(calls: int = 3, seed: int = 0) -> SampleRun:
    """A guided run: two rows a call, each call from the state that the one before left."""
    rng = np.random.default_rng(seed)
    net = Denoiser()
    state = rng.standard_normal((2, 3, 3), dtype=np.float32)
    made = []
    for _ in range(calls):
        inputs = {
            "latents": np.repeat(state[None], 2, axis=0),
            "shift": rng.standard_normal((2, 2, 1, 1), dtype=np.float32),
        }
        call = SampleCall(inputs, np.array([-0.7, 1.6], np.float32), "latents", 0.8)
        made.append(call)
        state = next_state(net, call, torch.from_numpy(state)).detach().numpy()
    return SampleRun(tuple(made), scale=0.5)


def next_state(net: nn.Module, call: SampleCall, state: Tensor, weights: dict[str, Tensor] | None = None) -> Tensor:
    inputs = {name: torch.from_numpy(value) for name, value in call.inputs.items()}
    inputs["latents"] = state.expand_as(inputs["latents"])
    output: Tensor = functional_call(net, weights or {}, (), inputs)
    return call.carry * state + torch.tensordot(torch.from_numpy(call.weights).to(output.dtype), output, dims=1)


def signal_change(sample: SampleRun, layer: str, change: np.ndarray) -> np.ndarray:
    """J dW by forward differentiation of the whole run, which shares nothing with the adjoint method."""
    net = Denoiser()
    key = f"{layer}.weight"

    def end(weight: Tensor) -> Tensor:
        state = torch.from_numpy(sample.calls[0].inputs["latents"][0])
        for call in sample.calls:
            state = next_state(net, call, state, {key: weight})
        return sample.scale * state

    _, tangent = jvp(end, (net.get_parameter(key).detach(),), (torch.from_numpy(change),))
    found: np.ndarray = tangent.detach().numpy()
    return found


def palettes(net: nn.Module) -> dict[str, Palettes]:
    weights = {name: net.get_submodule(name).weight.detach().half().numpy() for name in (*LAYERS, "unused")}
    return {name: layer.palettes for name, layer in palettize_layers(weights, CANDIDATES).items()}


def errors(layer: Palettes) -> list[np.ndarray]:
    """dW for each of the tables, by the plain definition: the nearest entry of the channel's group."""
    found = []
    for tables in layer.tables:
        rows = layer.weight.astype(np.float32).reshape(len(tables), -1)
        nearest = np.abs(rows[:, :, None] - tables[:, None, :]).argmin(axis=2)
        found.append((np.take_along_axis(tables, nearest, axis=1) - rows).reshape(layer.weight.shape))
    return found


@pytest.mark.parametrize("calls", [1, 3])
def test_one_backward_pass_finds_what_every_storage_changes_along_its_signs(calls: int) -> None:
    sample, net = run(calls), Denoiser()
    backward(net, sample, torch.Generator().manual_seed(5))
    signs = torch.randint(0, 2, (2, 3, 3), generator=torch.Generator().manual_seed(5)).numpy() * 2.0 - 1
    for name in LAYERS:
        layer = palettes(net)[name]
        gradient = net.get_parameter(f"{name}.weight").grad
        assert gradient is not None
        along, alone = project(layer, gradient.numpy())
        for place, change in enumerate(errors(layer)):
            # Weights halfway between two entries may take either.
            assert along[place] == pytest.approx(
                (signs * signal_change(sample, name, change)).sum(), rel=2e-3, abs=1e-5
            )
            assert alone[place] == pytest.approx(np.square(gradient.numpy() * change).sum(), rel=2e-3, abs=1e-9)


@pytest.mark.parametrize("shape", [(64, 4, 3, 3), (96, 96, 3, 3)])
def test_many_weights_summed_by_value_and_few_one_by_one_project_alike(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    weight, gradient = rng.standard_t(4, shape).astype(np.float16), rng.standard_normal(shape, dtype=np.float32)
    tested = [LayerRecipe(bits=2), LayerRecipe(bits=8), LayerRecipe(bits=4, group_size=shape[0] // 2)]
    layer = palettize_layers({"a": weight}, tested)["a"].palettes
    along, alone = project(layer, gradient)
    for place, storage in enumerate(tested):
        change = palettize_weight(weight, storage).dense().astype(np.float64) - weight
        assert along[place] == pytest.approx((gradient * change).sum(), rel=1e-6)
        assert alone[place] == pytest.approx(np.square(gradient * change).sum(), rel=1e-6)


def test_changes_are_on_average_the_square_of_the_jacobian_times_the_error() -> None:
    sample, net = run(), Denoiser()
    passes = 1200
    found = measure_changes(net, palettes(net), [sample] * passes)
    for name in LAYERS:
        layer = palettes(net)[name]
        exact = np.array([np.square(signal_change(sample, name, change)).sum() for change in errors(layer)])
        # The spread of <g, dW>^2 is at most sqrt(2) of its mean, sqrt(2 / 1200) = 4 % here.
        assert np.abs(found[name] / exact - 1).max() < 0.16


def test_a_single_pass_leans_on_the_size_of_errors() -> None:
    sample, net = run(), Denoiser()
    generator = torch.Generator().manual_seed(3)
    backward(net, sample, generator)
    gradient = net.first.weight.grad
    assert gradient is not None
    along, alone = project(palettes(net)["first"], gradient.numpy())
    net.zero_grad()
    found = measure_changes(net, palettes(net), [sample], seed=3)["first"]
    assert np.allclose(found, (along**2 + PRIOR * alone) / (1 + PRIOR), rtol=1e-5)


def test_a_layer_that_the_output_ignores_changes_nothing_and_no_gradient_stays_behind() -> None:
    net = Denoiser()
    found = measure_changes(net, palettes(net), [run()])
    assert not found["unused"].any() and found["first"].all()
    assert all(weight.grad is None and not weight.requires_grad for weight in net.parameters())


def test_every_call_of_every_pass_is_reported() -> None:
    steps: list[int] = []
    measure_changes(Denoiser(), palettes(Denoiser()), [run(3), run(2)], advance=steps.append)
    assert sum(steps) == 5


def test_without_samples_there_is_nothing_to_measure() -> None:
    with pytest.raises(ValueError, match="no samples"):
        measure_changes(Denoiser(), palettes(Denoiser()), [])


def test_expected_changes_are_what_a_unet_s_output_really_changes_by() -> None:
    """Layer by layer, palettized alone, from 1 bit to 6: within 4 dB each, and 1 dB on average."""
    torch.manual_seed(0)
    net = UNet(TINY_UNET).eval()
    layers = compressible_layers({key: tuple(value.shape) for key, value in net.state_dict().items()})
    weights = {name: net.get_submodule(name).weight.detach().half() for name in layers}
    for name, weight in weights.items():
        net.get_parameter(f"{name}.weight").data = weight.float()
    rng = np.random.default_rng(0)
    shapes = {"latents": (6, 4, 8, 8), "time_embedding": (6, 32, 1, 1), "encoder_hidden_states": (6, 32, 1, 77)}
    inputs = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}

    def rows(row: int) -> dict[str, np.ndarray]:
        return {name: value[row : row + 1] for name, value in inputs.items()}

    one = np.ones(1, np.float32)
    samples = [SampleRun((SampleCall(rows(row), one),)) for row in range(6)]
    tested = [LayerRecipe(bits=bits) for bits in (1, 2, 4, 6)]
    stored = palettize_layers({name: weight.numpy() for name, weight in weights.items()}, tested)
    expected = measure_changes(net, {name: layer.palettes for name, layer in stored.items()}, samples * 3)

    def output() -> Tensor:
        with torch.inference_mode():
            result: Tensor = net(**{name: torch.from_numpy(value) for name, value in inputs.items()})
        return result

    reference = output()
    ratios = []
    for name in list(layers)[::6]:
        parameter = net.get_parameter(f"{name}.weight")
        for place, storage in enumerate(tested):
            parameter.data = torch.from_numpy(palettize_weight(weights[name].numpy(), storage).dense()).float()
            measured = float((output() - reference).square().sum() / 6)
            ratios.append(10 * np.log10(expected[name][place] / measured))
        parameter.data = weights[name].float()
    assert np.abs(ratios).max() < 4
    assert abs(np.mean(ratios)) < 1
