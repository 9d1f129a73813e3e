from __future__ import annotations

import math

import numpy as np
import pytest

from sfmobile.bundle.manifest import ComponentName, TensorRecord
from sfmobile.errors import GateError, UsageError
from sfmobile.sampling.guidance import Guidance, check_scale


class LinearUNet:
    """A UNet whose output is latents + mean of the text + time: enough to tell rows apart."""

    name: ComponentName = "unet"
    inputs: tuple[TensorRecord, ...] = ()
    outputs: tuple[TensorRecord, ...] = ()

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.calls = 0

    def predict(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert {len(value) for value in inputs.values()} == {self.batch}
        self.calls += 1
        shift = inputs["encoder_hidden_states"].mean(axis=(1, 2, 3)) + inputs["time_embedding"].mean(axis=(1, 2, 3))
        return {"model_output": inputs["latents"] + shift[:, None, None, None]}

    def close(self) -> None: ...

    def __enter__(self) -> LinearUNet:
        return self

    def __exit__(self, *_: object) -> None: ...


LATENTS = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
TIME = np.full((1, 8, 1, 1), 0.5, np.float32)
STATES = "encoder_hidden_states"
CONDITIONAL = {STATES: np.full((1, 3, 1, 7), 2.0, np.float32)}
UNCONDITIONAL = {STATES: np.full((1, 3, 1, 7), -1.0, np.float32)}


@pytest.mark.parametrize(("batch", "calls"), [(2, 1), (1, 2)])
def test_moves_from_the_unconditional_prediction_past_the_conditional_one(batch: int, calls: int) -> None:
    unet = LinearUNet(batch)
    found = Guidance(batch, 3.0, CONDITIONAL, UNCONDITIONAL).predict(unet, LATENTS, TIME)  # type: ignore[arg-type]
    expected = LATENTS + 0.5 + (-1.0 + 3.0 * (2.0 - -1.0))
    np.testing.assert_allclose(found.model_output, expected, rtol=1e-6)
    assert unet.calls == len(found.calls) == calls


@pytest.mark.parametrize("batch", [1, 2])
def test_without_guidance_one_call_gives_the_conditional_prediction(batch: int) -> None:
    unet = LinearUNet(batch)
    found = Guidance(batch, 1.0, CONDITIONAL, None).predict(unet, LATENTS, TIME)  # type: ignore[arg-type]
    np.testing.assert_allclose(found.model_output, LATENTS + 2.5, rtol=1e-6)
    assert found.model_output.shape == LATENTS.shape
    assert unet.calls == 1


def test_calls_record_what_went_in_and_came_out() -> None:
    found = Guidance(2, 3.0, CONDITIONAL, UNCONDITIONAL).predict(LinearUNet(2), LATENTS, TIME)  # type: ignore[arg-type]
    (call,) = found.calls
    np.testing.assert_array_equal(call.inputs["latents"], np.concatenate([LATENTS, LATENTS]))
    expected = np.concatenate([UNCONDITIONAL[STATES], CONDITIONAL[STATES]])
    np.testing.assert_array_equal(call.inputs[STATES], expected)
    assert call.model_output.shape == (2, 1, 4, 4)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_an_overflow_is_reported_and_not_drawn(broken: float) -> None:
    latents = LATENTS.copy()
    latents[0, 0, 0, :2] = broken
    with pytest.raises(GateError, match="The UNet gave 4 of 32 values that are NaN or infinite, most likely an fp16"):
        Guidance(2, 3.0, CONDITIONAL, UNCONDITIONAL).predict(LinearUNet(2), latents, TIME)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [-0.5, math.nan, math.inf])
def test_a_scale_that_means_nothing_is_refused(scale: float) -> None:
    with pytest.raises(UsageError, match="makes no sense; expected 1"):
        check_scale(scale)
