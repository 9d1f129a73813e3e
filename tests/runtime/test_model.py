"""Any model executed without a bundle, as coremltools' MLModel.predict would on a Mac."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from PIL import Image

import sfmobile
from sfmobile.bundle.directory import Bundle
from sfmobile.errors import UsageError
from tests.runtime.packages import Lookup, classifier_model, convert, counter_model, picture_model, sum_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def summing(folder: Path) -> sfmobile.Model:
    return sfmobile.Model(sum_model(folder / "sum.mlpackage"))


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
        ({"latents": Image.new("RGB", (8, 8))}, "is a picture; expected an array of type fp16"),
    ],
)
def test_a_model_refuses_what_it_does_not_take(inputs: Any, sentence: str, tiny_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match=sentence):
        sfmobile.Model(tiny_bundle.package("decoder")).predict(inputs)


def test_a_model_takes_whole_numbers_where_those_are_declared(folder: Path) -> None:
    ids = ct.TensorType("ids", (3,), dtype=np.int32)
    model = sfmobile.Model(
        convert(Lookup(), [torch.zeros(3, dtype=torch.int32)], folder / "rows.mlpackage", inputs=[ids])
    )
    with pytest.raises(UsageError, match="has dtype float64; expected numbers for int32"):
        model.predict({"ids": np.full(3, 1.5)})
    with pytest.raises(UsageError, match="has the value 1099511627776; expected -2147483648 to 2147483647"):
        model.predict({"ids": np.full(3, 2**40)})
    with pytest.raises(UsageError, match="has dtype float64; expected numbers for int32"):
        model.predict({"ids": np.array([1, np.inf, 2])})
    assert "ids int32[3] ->" in repr(model)
    (rows,) = model.predict({"ids": [1.0, 1.0, 2.0]}).values()
    assert np.array_equal(rows[0], rows[1]) and not np.array_equal(rows[0], rows[2])


def test_an_optional_input_has_its_default(summing: sfmobile.Model) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(summing.predict({"x": x})["sum"], x + 1)
    assert np.array_equal(summing.predict({"x": torch.from_numpy(x), "y": x.tolist()})["sum"], 3 * x)
    with pytest.raises(UsageError, match="lacks its input 'x'"):
        summing.predict({"y": x})
    assert [found["sum"][0, 0] for found in summing.predict([{"x": x}, {"x": x + 1}])] == [1, 2]


def test_results_are_the_callers_own(summing: sfmobile.Model) -> None:
    x = np.ones((2, 3), np.float32)
    x.setflags(write=False)
    flat = summing.predict({"x": x})["flat"]
    flat[:] = 7
    assert (x == 1).all() and (summing.predict({"x": x})["flat"] == 1).all()


def test_ranges_and_choices_of_shapes_are_kept(folder: Path) -> None:
    ranged = sfmobile.Model(sum_model(folder / "ranged.mlpackage", (ct.RangeDim(1, 4, default=2), 3), default=None))
    assert str(ranged.inputs["x"]) == "fp32[?, 3]"
    for rows in (1, 4):
        assert ranged.predict({"x": np.ones((rows, 3)), "y": np.ones((rows, 3))})["sum"].shape == (rows, 3)
    with pytest.raises(UsageError, match=r"'x' of ranged.mlpackage has shape \(5, 3\); expected \(1 to 4, 3\)"):
        ranged.predict({"x": np.ones((5, 3)), "y": np.ones((5, 3))})
    choices = ct.EnumeratedShapes(shapes=[[2, 3], [4, 6]])
    chosen = sfmobile.Model(
        sum_model(folder / "chosen.mlpackage", choices, default=None, minimum_deployment_target=ct.target.iOS18)
    )
    assert chosen.predict({"x": np.ones((4, 6)), "y": np.ones((4, 6))})["sum"].shape == (4, 6)
    with pytest.raises(UsageError, match=r"has shape \(2, 6\); expected \(2, 3\) or \(4, 6\)"):
        chosen.predict({"x": np.ones((2, 6)), "y": np.ones((2, 6))})


@pytest.mark.parametrize("layout", ["RGB", "BGR"])
def test_a_picture_has_the_declared_order_of_colours(layout: str, folder: Path) -> None:
    model = sfmobile.Model(picture_model(folder / f"{layout}.mlpackage", layout, output=layout))
    picture = Image.new("RGB", (6, 4), (255, 102, 51))
    found = model.predict({"image": picture})
    expected = np.array([[1, 0.4, 0.2]]) if layout == "RGB" else np.array([[0.2, 0.4, 1]])
    np.testing.assert_allclose(found["mean"], expected, atol=1e-6)
    # The output is scaled to 0 to 1, so a byte is 0 or 1; its colours have changed places once, whatever the layout.
    assert found["swapped"].mode == "RGB" and found["swapped"].size == (6, 4)
    assert found["swapped"].getpixel((0, 0)) == (0, 0, 1)
    gray = model.predict({"image": Image.new("L", (6, 4), 51)})
    np.testing.assert_allclose(gray["mean"], np.full((1, 3), 0.2), atol=1e-6)
    array = np.asarray(picture, np.float32).transpose(2, 0, 1)[None]
    np.testing.assert_allclose(model.predict({"image": array})["mean"], [[1, 0.4, 0.2]], atol=1e-6)
    with pytest.raises(UsageError, match="is a picture of 5x4; expected 6x4; resize it first"):
        model.predict({"image": Image.new("RGB", (5, 4))})
    with pytest.raises(UsageError, match="of mode I;16, which has more than 8 bits"):
        model.predict({"image": Image.new("I;16", (6, 4))})


def test_a_picture_of_several_sizes_is_checked_too(folder: Path) -> None:
    shape = ct.EnumeratedShapes(shapes=[[1, 3, 4, 6], [1, 3, 8, 8]])
    model = sfmobile.Model(picture_model(folder / "sizes.mlpackage", output=None, shape=shape))
    assert model.predict({"image": Image.new("RGB", (8, 8))})["swapped"].shape == (1, 3, 8, 8)
    with pytest.raises(UsageError, match="is a picture of 8x4; expected 6x4 or 8x8"):
        model.predict({"image": Image.new("RGB", (8, 4))})


def test_a_classifier_names_its_class(folder: Path) -> None:
    model = sfmobile.Model(classifier_model(folder / "pets.mlpackage"))
    found = model.predict({"x": np.ones((1, 4))})
    assert found[model.description.label] == "dog"
    scores = found[model.description.scores or "classLabel_probs"]
    assert list(scores) == ["cat", "dog", "owl"] and abs(sum(scores.values()) - 1) < 1e-5


def test_a_state_goes_from_call_to_call(folder: Path) -> None:
    model = sfmobile.Model(counter_model(folder / "counter.mlpackage"))
    with pytest.raises(UsageError, match=r"keeps total between calls; make a state with make_state\(\)"):
        model.predict({"x": np.ones(3)})
    state, other = model.make_state(), model.make_state()
    model.predict({"x": np.ones(3)}, state)
    assert np.array_equal(model.predict({"x": np.full(3, 2)}, state)["twice"], np.full(3, 6, np.float16))
    kept = state.read_state("total")
    assert kept.dtype == np.float16 and np.array_equal(kept, np.full(3, 3)) and not other.read_state("total").any()
    kept[:] = 9
    state.write_state("total", np.full(3, 10))
    assert np.array_equal(model.predict({"x": np.ones(3)}, state)["twice"], np.full(3, 22, np.float16))
    with pytest.raises(UsageError, match="has no state 'sum'; it has total"):
        state.read_state("sum")
    with pytest.raises(UsageError, match=r"State 'total' of counter.mlpackage has shape \(4,\)"):
        state.write_state("total", np.ones(4))


def test_another_engine_gives_the_same(summing: sfmobile.Model) -> None:
    other = sfmobile.Model(summing.package, runtime="onnx")
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    np.testing.assert_allclose(other.predict({"x": x})["sum"], summing.predict({"x": x})["sum"], rtol=1e-6)
    with pytest.raises(UsageError, match="fp16 is an evaluation of the runtime mil, not of onnx"):
        sfmobile.Model(summing.package, runtime="onnx", precision="fp16")
