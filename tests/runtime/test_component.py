"""What every runtime does at its border."""

from __future__ import annotations

import numpy as np
import pytest

from sfmobile.bundle.directory import Bundle
from sfmobile.errors import UsageError
from sfmobile.runtime.component import InputError
from sfmobile.runtime.opening import open_runtime
from tests.runtime.sample import expected_output, sample_inputs


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_float_dtype_is_taken_and_float32_given(runtime_bundle: Bundle, dtype: type) -> None:
    inputs = sample_inputs("decoder")
    with open_runtime("mil", runtime_bundle).load("decoder") as decoder:
        image = decoder.predict({name: value.astype(dtype) for name, value in inputs.items()})["image"]
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, expected_output("decoder", inputs), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16])
def test_any_integer_dtype_is_taken_for_ids(runtime_bundle: Bundle, dtype: type) -> None:
    inputs = sample_inputs("text_encoder")
    with open_runtime("mil", runtime_bundle).load("text_encoder") as encoder:
        hidden = encoder.predict({"input_ids": inputs["input_ids"].astype(dtype)})["encoder_hidden_states"]
    np.testing.assert_array_equal(hidden, expected_output("text_encoder", inputs))


def test_inputs_that_arent_contiguous_are_taken(runtime_bundle: Bundle) -> None:
    inputs = sample_inputs("decoder")
    turned = inputs["latents"].transpose(0, 1, 3, 2)
    with open_runtime("mil", runtime_bundle).load("decoder") as decoder:
        image = decoder.predict({"latents": turned})["image"]
    np.testing.assert_allclose(image, expected_output("decoder", {"latents": turned}), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"latents": None}, "lacks its input 'latents'; it takes latents, time_embedding, encoder_hidden_states"),
        ({"noise": np.zeros(1)}, "has no input 'noise'; it takes latents"),
        ({"latents": np.zeros((1, 4, 8, 8))}, r"has shape \(1, 4, 8, 8\); expected \(2, 4, 8, 8\)"),
        ({"latents": np.zeros((2, 4, 8, 8), dtype=np.int32)}, "has dtype int32; expected floats"),
        ({"latents": np.zeros((2, 4, 8, 8), dtype=np.complex64)}, "has dtype complex64; expected floats"),
    ],
)
def test_wrong_inputs_are_one_sentence(
    runtime_bundle: Bundle, change: dict[str, np.ndarray | None], sentence: str
) -> None:
    inputs = {**sample_inputs("unet"), **change}
    given = {name: value for name, value in inputs.items() if value is not None}
    with open_runtime("mil", runtime_bundle).load("unet") as unet, pytest.raises(InputError, match=sentence):
        unet.predict(given)


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        (np.zeros((1, 77)), "has dtype float64; expected integers"),
        (np.full((1, 77), 2**31), "has the value 2147483648; expected 32-bit integers"),
    ],
)
def test_ids_must_be_32_bit_integers(runtime_bundle: Bundle, ids: np.ndarray, sentence: str) -> None:
    with open_runtime("mil", runtime_bundle).load("text_encoder") as encoder, pytest.raises(InputError, match=sentence):
        encoder.predict({"input_ids": ids})


def test_a_closed_component_says_so_and_closes_again(runtime_bundle: Bundle) -> None:
    decoder = open_runtime("mil", runtime_bundle).load("decoder")
    decoder.close()
    decoder.close()
    with pytest.raises(UsageError, match="Component 'decoder' is closed"):
        decoder.predict(sample_inputs("decoder"))
