from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfmobile.compress.palettize import palettize_weight
from sfmobile.compress.recipe import LayerRecipe, compressible_layers
from sfmobile.compress.search import expected_change
from sfmobile.compress.sensitivity import CalibrationCall, CalibrationSample, measure_sensitivities
from sfmobile.nets.unet import UNet
from tests.tiny import TINY_UNET


class TwoLayers(nn.Module):
    """One layer that the output depends on, and one that it doesn't."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Conv2d(3, 5, 1, bias=False)
        self.unused = nn.Conv2d(3, 5, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.used(x)
        return y


def one_call(x: np.ndarray, *weights: float) -> CalibrationSample:
    return CalibrationSample((CalibrationCall({"x": x.astype(np.float32)}, np.array(weights, np.float32)),))


def test_a_linear_layer_is_as_sensitive_as_its_inputs_are_large() -> None:
    x = np.array([2.0, -1.0, 0.5]).reshape(1, 3, 1, 1)
    found = measure_sensitivities(TwoLayers(), ["used"], [one_call(x, 3.0)])["used"]
    # y_o = 3 sum_i w_oi x_i, so the squared change of y per squared change of w_oi is 9 x_i^2.
    assert np.allclose(np.outer(found.rows, found.columns), np.tile(9 * x.reshape(1, 3) ** 2, (5, 1)), rtol=1e-5)
    assert found.columns.mean() == pytest.approx(1, rel=1e-5)


def test_slopes_are_the_signal_s_change_as_a_channel_grows() -> None:
    torch.manual_seed(0)
    net, x = TwoLayers(), np.array([2.0, -1.0, 0.5]).reshape(1, 3, 1, 1)
    found = measure_sensitivities(net, ["used"], [one_call(x, 1.0)] * 4)["used"]
    output = net(torch.from_numpy(x).float()).detach().numpy().reshape(5)
    # A channel that grows by a share adds that share of its own output, with the sign that was drawn for it.
    assert np.allclose(np.abs(found.slopes), np.tile(np.abs(output), (4, 1)), rtol=1e-5)


def test_calls_of_one_sample_add_up_with_their_signs() -> None:
    x = np.ones((1, 3, 1, 1), np.float32)
    both = CalibrationSample(tuple(CalibrationCall({"x": x}, np.array([w], np.float32)) for w in (1.0, -1.0)))
    assert not measure_sensitivities(TwoLayers(), ["used"], [both])["used"].rows.any()


def test_a_layer_that_the_output_ignores_has_no_sensitivity_and_nothing_stays_behind() -> None:
    net = TwoLayers()
    found = measure_sensitivities(net, ["used", "unused"], [one_call(np.ones((2, 3, 1, 1)), 1.0, 1.0)])
    assert not found["unused"].rows.any() and found["used"].rows.all()
    assert all(weight.grad is None and not weight.requires_grad for weight in net.parameters())


def test_without_samples_there_is_nothing_to_measure() -> None:
    with pytest.raises(ValueError, match="no samples"):
        measure_sensitivities(TwoLayers(), ["used"], [])


def test_expected_changes_are_what_a_unet_s_output_really_changes_by() -> None:
    """Layer by layer, palettized alone: within 4 dB each, and 1.5 dB on average."""
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
    samples = [CalibrationSample((CalibrationCall(rows(row), one),)) for row in range(6)]
    sensitivities = measure_sensitivities(net, layers, samples * 2)

    def output() -> Tensor:
        with torch.inference_mode():
            result: Tensor = net(**{name: torch.from_numpy(value) for name, value in inputs.items()})
        return result

    reference = output()
    ratios = []
    for name in list(layers)[::6]:
        parameter = net.get_parameter(f"{name}.weight")
        for bits in (2, 4, 6):
            storage = LayerRecipe(bits=bits)
            expected = expected_change(weights[name].numpy(), storage, sensitivities[name])
            parameter.data = torch.from_numpy(palettize_weight(weights[name].numpy(), storage).dense()).float()
            measured = float((output() - reference).square().sum() / 6)
            ratios.append(10 * np.log10(expected / measured))
        parameter.data = weights[name].float()
    assert np.abs(ratios).max() < 4
    assert abs(np.mean(ratios)) < 1.5
