"""The torch runtime: the reference networks with the weights of the checkpoint that a bundle was exported from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import ComponentName, ComponentRecord
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.hub import is_here, open_checkpoint
from sfmobile.checkpoint.source import Source
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.runtime.component import Component

if TYPE_CHECKING:
    from torch import nn


class TorchComponent(Component):
    """A reference network in float32."""

    def __init__(self, name: ComponentName, record: ComponentRecord, net: nn.Module) -> None:
        super().__init__(name, record)
        self._net: nn.Module | None = net

    @property
    def network(self) -> nn.Module:
        """The network behind the component. Raises `UsageError` once closed."""
        if self._net is None:
            raise UsageError(f"Component '{self.name}' is closed; load it again.")
        return self._net

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Call the network; its forward takes the inputs by their names."""
        import torch

        assert self._net is not None
        with torch.inference_mode():
            output = self._net(**{name: torch.from_numpy(value) for name, value in inputs.items()})
        outputs = output if isinstance(output, tuple) else (output,)
        return {record.name: one.numpy() for record, one in zip(self.outputs, outputs, strict=True)}

    def free(self) -> None:
        """Drop the network."""
        self._net = None


class TorchRuntime:
    """Runs the networks that were exported, from their checkpoint.

    source: the checkpoint, taken as it is; without one it is found through the manifest and each component's weights
    are compared with the hash recorded at export.
    """

    def __init__(self, bundle: Bundle, source: Checkpoint | None = None) -> None:
        """Raises `UsageError` if no source is given and the recorded one isn't on this machine."""
        self.bundle = bundle
        self._recorded = source is None
        if source is None:
            recorded = Source.recorded(bundle.manifest)
            if not is_here(recorded):
                raise UsageError(
                    f"The checkpoint '{recorded.id}' that {bundle.root} was exported from isn't here; name its "
                    "directory with --source."
                )
            source = open_checkpoint(recorded)
        text = bundle.manifest.pipeline.text
        source = source.with_clip_skip(text.skipped_layers).with_prompt_chunks(text.chunks)
        self.source = source.with_recorded(bundle.manifest.pipeline.components)

    def describe(self) -> str:
        """E.g. "torch fp32 (torch 2.13.0 CPU)"."""
        import torch

        return f"torch fp32 (torch {torch.__version__.split('+')[0]} CPU)"

    def load(self, name: ComponentName) -> TorchComponent:
        """Build one network and load its weights as float32.

        Raises `ArtifactError` if the weights are missing or broken, or aren't those the bundle was exported from.
        """
        self.bundle.package(name)
        record = self.bundle.manifest.components[name]
        if self._recorded and (found := self.source.sha256(name)) != record.source_sha256:
            raise ArtifactError(
                f"{self.source.root} has changed since {self.bundle.root} was exported: its {name} has SHA-256 "
                f"{found[:12]}…, expected {record.source_sha256[:12]}…; export again, or name the right checkpoint "
                "with --source."
            )
        return TorchComponent(name, record, self.source.load(name))
