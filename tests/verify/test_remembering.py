"""A runtime that computes nothing twice."""

from __future__ import annotations

import numpy as np

from sfmobile.bundle.directory import Bundle
from sfmobile.runtime.mil.runtime import MilRuntime
from sfmobile.verify.recording import Call
from sfmobile.verify.remembering import Remembering


class Counting:
    """Counts what is loaded and predicted."""

    def __init__(self, bundle: Bundle) -> None:
        self.runtime = MilRuntime(bundle)
        self.loaded: list[str] = []
        self.predicted = 0

    def describe(self) -> str:
        return "counting"

    def load(self, name):
        component = self.runtime.load(name)
        self.loaded.append(name)
        predict = component.predict

        def counted(inputs):
            self.predicted += 1
            return predict(inputs)

        component.predict = counted
        return component


def latents(bundle: Bundle, value: float) -> dict[str, np.ndarray]:
    return {"latents": np.full(bundle.manifest.components["decoder"].inputs[0].shape, value, np.float32)}


def test_what_is_known_or_expected_is_computed_once_and_loads_nothing(tiny_bundle: Bundle) -> None:
    one, other, third = (latents(tiny_bundle, value) for value in (0.1, 0.2, 0.3))
    counting = Counting(tiny_bundle)
    runtime = Remembering(counting, tiny_bundle.manifest.components, [Call("decoder", "", other, {})])
    with runtime.load("decoder") as decoder:
        first = decoder.predict(one)["image"]
        expected = np.array(first)
        # A caller may write into what it gets.
        first[:] = 0
    assert counting.loaded == ["decoder"] and counting.predicted == 2
    with runtime.load("decoder") as decoder:
        np.testing.assert_array_equal(decoder.predict(one)["image"], expected)
        with MilRuntime(tiny_bundle).load("decoder") as plain:
            np.testing.assert_array_equal(decoder.predict(other)["image"], plain.predict(other)["image"])
        assert counting.loaded == ["decoder"] and counting.predicted == 2
        assert not np.array_equal(decoder.predict(third)["image"], expected)
    assert counting.loaded == ["decoder", "decoder"] and counting.predicted == 3
