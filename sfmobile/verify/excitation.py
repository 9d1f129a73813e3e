"""Inputs that excite all of a component: what a picture's own trajectory may leave at rest.

A prompt reads a dozen rows of the token table and the same end token at most positions; a run gives both rows of a
batch the same timestep, and latents that shrink to a picture's. So beside the trajectory's calls a component gets ids
from all over the vocabulary, another timestep and another text in each row, and latents of full variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sfmobile.sampling.time_embedding import sinusoid

if TYPE_CHECKING:
    from sfmobile.bundle.manifest import ComponentName, Manifest, TensorRecord, TokenizerRecord
    from sfmobile.verify.recording import Call

# Timesteps of the first training step, of the middle and of the last, in turn; as shares of all.
TIMES = (0.03, 0.5, 0.97, 0.25, 0.75)
COUNT = 2


def exciting_inputs(
    manifest: Manifest, component: ComponentName, calls: Sequence[Call], seed: int = 0
) -> list[dict[str, np.ndarray]]:
    """`COUNT` inputs of `component`, the same for the same seed.

    calls: of the trajectory, which tell how large a float input is (its root mean square; 1 without one).
    """
    generator = np.random.default_rng(seed)
    record = manifest.components[component]
    sizes = {
        tensor.name: float(np.sqrt(np.mean([np.square(call.inputs[tensor.name]).mean() for call in calls])))
        for tensor in record.inputs
        if calls and tensor.dtype != "int32"
    }
    return [
        {tensor.name: _input(manifest, component, tensor, generator, number, sizes) for tensor in record.inputs}
        for number in range(COUNT)
    ]


def _input(
    manifest: Manifest,
    component: ComponentName,
    tensor: TensorRecord,
    generator: np.random.Generator,
    number: int,
    sizes: dict[str, float],
) -> np.ndarray:
    if tensor.name == "input_ids":
        read_by = {text.component: text.tokenizer for text in manifest.pipeline.texts}
        return _ids(manifest.tokenizers[read_by[component]], tensor, generator)
    if tensor.name == "time_embedding":
        rows = tensor.shape[0]
        shares = [TIMES[(number * rows + row) % len(TIMES)] for row in range(rows)]
        return sinusoid(
            [int(share * manifest.sampler.num_train_timesteps) for share in shares], manifest.time_embedding
        )
    # A trajectory that nothing controls has zeros for residuals.
    size = max(sizes.get(tensor.name, 0.0) or 1.0, 1e-3)
    return (size * generator.standard_normal(tensor.shape)).astype(np.float32)


def _ids(tokens: TokenizerRecord, tensor: TensorRecord, generator: np.random.Generator) -> np.ndarray:
    """A text as long as can be, of tokens from all over the vocabulary, between the start and the end token."""
    ids = generator.integers(0, max(tokens.bos_token_id, 1), tensor.shape, dtype=np.int32)
    ids[:, 0] = tokens.bos_token_id
    ids[:, -1] = tokens.eos_token_id
    return ids
