"""A bundle's components on Apple's runtime."""

from __future__ import annotations

import numpy as np
import pytest

from sfmobile.bundle.directory import Bundle
from sfmobile.errors import UsageError
from sfmobile.runtime.mil.runtime import MilRuntime
from sfmobile.sampling.pipeline import Request, TextToImage
from tests.runtime.mil.programs import psnr
from tests.runtime.test_torch import inputs_of

pytest.importorskip("coreai", reason="Apple's package is for Python 3.11 and later on x86-64 Linux and macOS 27")

from sfmobile.runtime.coreai.runtime import CoreAIRuntime


@pytest.mark.parametrize("name", ["tiny_bundle", "tiny_palettized_bundle"])
def test_components_agree_with_mil(name: str, request: pytest.FixtureRequest) -> None:
    bundle: Bundle = request.getfixturevalue(name)
    for component in bundle.manifest.components:
        inputs = inputs_of(bundle, component)
        with MilRuntime(bundle).load(component) as mil, CoreAIRuntime(bundle).load(component) as apple:
            expected, found = mil.predict(inputs), apple.predict(inputs)
        for key, value in expected.items():
            assert found[key].dtype == np.float32
            assert psnr(found[key], value) > 110


def test_a_picture_is_the_one_that_mil_draws(tiny_palettized_bundle: Bundle) -> None:
    pictures = []
    for runtime in (MilRuntime(tiny_palettized_bundle), CoreAIRuntime(tiny_palettized_bundle)):
        with TextToImage.of_bundle(tiny_palettized_bundle, runtime) as pipeline:
            pictures.append(pipeline.generate(Request("a red apple", steps=2)).pixels.astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_a_closed_component_says_so(tiny_bundle: Bundle) -> None:
    component = CoreAIRuntime(tiny_bundle).load("decoder")
    component.close()
    component.close()
    with pytest.raises(UsageError, match="closed"):
        component.predict({})
