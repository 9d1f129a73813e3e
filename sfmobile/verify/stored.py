"""The reference networks with the weights that a bundle's packages store: what the bundle should give, to the rounding.

Against the source's own weights a bundle of 6 bits is off by what compression lost, and a fault hides in that. Against
these it isn't off at all, whatever the bits: the same weights, another implementation of everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from sfmobile.errors import ArtifactError
from sfmobile.runtime.torch import TorchComponent

if TYPE_CHECKING:
    from sfmobile.bundle.directory import Bundle
    from sfmobile.bundle.manifest import ComponentName
    from sfmobile.checkpoint.directory import Checkpoint


class StoredRuntime:
    """Torch networks in float32 with stored weights, behind the runtimes' protocol.

    weights: of a component, by parameter name, as `weights.compare_weights` decoded them; asked for when it is loaded.
    """

    def __init__(
        self, bundle: Bundle, source: Checkpoint, weights: Callable[[ComponentName], Mapping[str, np.ndarray]]
    ) -> None:
        self.bundle = bundle
        self.source = source
        self._weights = weights

    def describe(self) -> str:
        """E.g. "torch fp32 with the stored weights (torch 2.13.0 CPU)"."""
        import torch

        return f"torch fp32 with the stored weights (torch {torch.__version__.split('+')[0]} CPU)"

    def load(self, name: ComponentName) -> TorchComponent:
        """Build one network. Raises `ArtifactError` if the package lacks one of its weights."""
        import torch

        weights = self._weights(name)
        network = self.source.load(name, None)
        missing = [key for key in network.state_dict() if key not in weights]
        if missing:
            raise ArtifactError(
                f"'{self.bundle.package(name)}' lacks {len(missing)} weights of its network or holds them in another "
                f"shape, '{missing[0]}' for one; export it again."
            )
        values = {key: torch.from_numpy(value).float() for key, value in weights.items()}
        network.load_state_dict(values, assign=True)
        return TorchComponent(name, self.bundle.manifest.components[name], network.float().eval())
