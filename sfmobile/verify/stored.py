"""The reference networks with the weights that a bundle's packages store: what the bundle should give, to the rounding.

Against the source's own weights a bundle of 6 bits is off by what compression lost, and a fault hides in that. Against
these it isn't off at all, whatever the bits: the same weights, another implementation of everything else.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from sfmobile.compress.palettize import worker_count
from sfmobile.errors import ArtifactError
from sfmobile.mlpackage.names import constant_name
from sfmobile.runtime.torch import TorchComponent
from sfmobile.verify.decompression import decode
from sfmobile.verify.weights import stored_constants

if TYPE_CHECKING:
    from torch import Tensor

    from sfmobile.bundle.directory import Bundle
    from sfmobile.bundle.manifest import ComponentName
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.mlpackage.program import Program


class StoredRuntime:
    """Torch networks in float32 with stored weights, behind the runtimes' protocol.

    program: of a component, which holds its weights; they are decoded when it is loaded.
    """

    def __init__(self, bundle: Bundle, source: Checkpoint, program: Callable[[ComponentName], Program]) -> None:
        self.bundle = bundle
        self.source = source
        self._program = program

    def describe(self) -> str:
        """E.g. "torch fp32 with the stored weights (torch 2.13.0 CPU)"."""
        import torch

        return f"torch fp32 with the stored weights (torch {torch.__version__.split('+')[0]} CPU)"

    def load(self, name: ComponentName) -> TorchComponent:
        """Build one network. Raises `ArtifactError` if the package lacks one of its weights."""
        import torch

        network = self.source.load(name, None)
        constants = dict(stored_constants(self._program(name)))

        def widened(item: tuple[str, Tensor]) -> tuple[str, Tensor | None]:
            key, own = item
            constant = constants.get(constant_name(key))
            found = None if constant is None else decode(constant).astype(np.float16, copy=False)
            if found is None or found.size != own.numel():
                return key, None
            return key, torch.from_numpy(found).float().reshape(own.shape)

        with ThreadPoolExecutor(worker_count()) as workers:
            values = dict(workers.map(widened, network.state_dict().items()))
        missing = [key for key, value in values.items() if value is None]
        if missing:
            raise ArtifactError(
                f"'{self.bundle.package(name)}' lacks {len(missing)} weights of its network or holds them in another "
                f"shape, '{missing[0]}' for one; export it again."
            )
        network.load_state_dict(values, assign=True)
        return TorchComponent(name, self.bundle.manifest.components[name], network.float().eval())
