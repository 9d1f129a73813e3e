from __future__ import annotations

import numpy as np
import pytest
import torch

from sfmobile.sampling.time_embedding import guidance_sinusoid as by_the_host
from sfmobile.train.diffusion import guidance_sinusoid


@pytest.mark.parametrize("scale", [1.0, 2.0, 7.5])
def test_a_network_is_trained_with_the_guidance_that_a_host_gives_it(scale: float) -> None:
    trained = guidance_sinusoid(torch.tensor([scale]), 64).numpy()
    # Angles reach 6,500, where float32 is 5e-4 wide.
    np.testing.assert_allclose(trained, by_the_host(scale, 64), atol=2e-3)
