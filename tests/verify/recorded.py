"""Recordings of the reference for tests: by the checkpoint's own constants, or by the bundle's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sfmobile.bundle.choices import ComponentName
from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.pipeline import TEXT_TO_IMAGE
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.runtime.torch import TorchRuntime
from sfmobile.sampling.pipeline import Request
from sfmobile.verify.constants import reference_pipeline
from sfmobile.verify.recording import Recorder
from sfmobile.verify.runs import Recording, record_reference


def recorded(
    bundle: Bundle,
    checkpoint: Checkpoint,
    requests: Sequence[Request],
    components: Sequence[ComponentName] = TEXT_TO_IMAGE,
    advance: Callable[[int], None] = lambda steps: None,
) -> Recording:
    """What our networks give for `requests`."""
    recorder = Recorder(TorchRuntime(bundle, checkpoint))
    with reference_pipeline(bundle, checkpoint, recorder) as pipeline:
        return record_reference(pipeline, recorder, requests, advance, components)
