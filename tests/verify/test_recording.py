from __future__ import annotations

import numpy as np

from sfmobile.bundle.manifest import TensorRecord
from sfmobile.verify.recording import Recorder


class Doubler:
    """A component that reuses its buffers, as a runtime may."""

    name = "unet"
    inputs = (TensorRecord(name="x", shape=(2,), dtype="float16"),)
    outputs = (TensorRecord(name="y", shape=(2,), dtype="float16"),)

    def __init__(self) -> None:
        self.buffer = np.zeros(2, np.float32)
        self.closed = False

    def predict(self, inputs):
        np.multiply(inputs["x"], 2, out=self.buffer)
        return {"y": self.buffer}

    def close(self) -> None:
        self.closed = True


class Reusing:
    def __init__(self) -> None:
        self.component = Doubler()

    def describe(self) -> str:
        return "doubler"

    def load(self, name):
        return self.component


def test_calls_are_kept_as_they_were_although_buffers_change() -> None:
    recorder = Recorder(Reusing())
    x = np.array([1, 2], np.float32)
    with recorder.load("unet") as component:
        component.predict({"x": x})
        x[:] = 5
        component.predict({"x": x})
    first, second = recorder.take("step 1")
    assert first.component == "unet" and first.label == "step 1"
    assert first.inputs["x"].tolist() == [1, 2] and first.outputs["y"].tolist() == [2, 4]
    assert second.outputs["y"].tolist() == [10, 10]
    assert recorder.take("step 2") == []


def test_the_wrapped_runtime_shows_through() -> None:
    runtime = Reusing()
    recorder = Recorder(runtime)
    assert recorder.describe() == "doubler"
    with recorder.load("unet") as component:
        assert component.inputs == Doubler.inputs and component.outputs == Doubler.outputs
    assert runtime.component.closed
