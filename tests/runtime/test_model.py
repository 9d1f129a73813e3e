"""Any package executed without a bundle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import sfmobile
from sfmobile.bundle.directory import Bundle
from sfmobile.errors import UsageError


def test_a_model_is_any_package(tiny_bundle: Bundle) -> None:
    model = sfmobile.Model(tiny_bundle.package("decoder"))
    (name,) = model.inputs
    latents = np.random.default_rng(0).standard_normal(model.inputs[name].shape)
    outputs = model.predict({name: latents})
    assert set(outputs) == set(model.outputs) and outputs["image"].shape == model.outputs["image"].shape
    assert outputs["image"].dtype == np.float16 and np.isfinite(outputs["image"]).all()
    with sfmobile.Pipeline(tiny_bundle, runtime="mil") as pipeline:
        expected = pipeline.component("decoder").predict({"latents": latents})["image"]
    assert np.array_equal(outputs["image"], expected.astype(np.float16))


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({}, r"Decoder\.mlpackage lacks its input 'latents' of type fp16"),
        ({"latents": np.zeros((1, 4, 8, 8)), "extra": np.zeros(1)}, "has no input 'extra'; it takes latents"),
        ({"latents": np.zeros((1, 4, 8, 9))}, r"has shape \(1, 4, 8, 9\); expected fp16\[1, 4, 8, 8\]"),
        ({"latents": np.full((1, 4, 8, 8), "a")}, "has dtype <U1; expected numbers for fp16"),
    ],
)
def test_a_model_refuses_what_it_does_not_take(inputs: Any, sentence: str, tiny_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match=sentence):
        sfmobile.Model(tiny_bundle.package("decoder")).predict(inputs)


def test_a_model_takes_whole_numbers_where_those_are_declared(tiny_bundle: Bundle) -> None:
    model = sfmobile.Model(str(tiny_bundle.package("text_encoder")))
    (shape,) = (type_.shape for type_ in model.inputs.values())
    with pytest.raises(UsageError, match="has dtype float64; expected numbers for int32"):
        model.predict({"input_ids": np.full(shape, 1.5)})
    assert "input_ids int32[1, 77] ->" in repr(model)
    assert list(model.predict({"input_ids": np.ones(shape, np.int64)})) == ["encoder_hidden_states"]
