"""The torch runtime on a tiny checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import ComponentName, SourceRecord, TensorRecord
from sfmobile.bundle.pipeline import TEXT_TO_IMAGE
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.runtime.opening import open_runtime
from tests.tiny import TINY_LATENT_SIZE

HEIGHT, WIDTH = TINY_LATENT_SIZE


def bundle_of(checkpoint: Checkpoint, sample: Bundle, source: str | None = None) -> Bundle:
    """The sample bundle's manifest with the shapes and hashes of a checkpoint."""
    hidden = checkpoint.text_encoder_layout.hidden
    factor = checkpoint.autoencoder_layout.downsampling

    def floats(name: str, *shape: int) -> TensorRecord:
        return TensorRecord(name=name, shape=shape, dtype="float16")

    latents = floats("latents", 2, 4, HEIGHT, WIDTH)
    borders: dict[ComponentName, tuple[tuple[TensorRecord, ...], TensorRecord]] = {
        "text_encoder": (
            (TensorRecord(name="input_ids", shape=(1, 77), dtype="int32"),),
            floats("encoder_hidden_states", 1, hidden, 1, 77),
        ),
        "unet": (
            (latents, floats("time_embedding", 2, 32, 1, 1), floats("encoder_hidden_states", 2, hidden, 1, 77)),
            floats("model_output", 2, 4, HEIGHT, WIDTH),
        ),
        "decoder": (
            (floats("latents", 1, 4, HEIGHT, WIDTH),),
            floats("image", 1, 3, factor * HEIGHT, factor * WIDTH),
        ),
    }
    records = {
        name: sample.manifest.components[name].model_copy(
            update={"inputs": inputs, "outputs": (output,), "source_sha256": checkpoint.sha256(name)}
        )
        for name, (inputs, output) in borders.items()
    }
    origin = SourceRecord(id=source or str(checkpoint.root), sha256="0" * 64)
    return Bundle(sample.root, sample.manifest.model_copy(update={"components": records, "source": origin}))


def inputs_of(bundle: Bundle, name: ComponentName) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        item.name: random.integers(0, 500, item.shape).astype(np.int32)
        if item.dtype == "int32"
        else random.normal(size=item.shape).astype(np.float32)
        for item in bundle.manifest.components[name].inputs
    }


@pytest.mark.parametrize("name", TEXT_TO_IMAGE)
def test_the_reference_is_the_checkpoints_own_network(
    tiny_checkpoint: Checkpoint, runtime_bundle: Bundle, name: ComponentName
) -> None:
    bundle = bundle_of(tiny_checkpoint, runtime_bundle)
    runtime = open_runtime("torch", bundle)
    assert runtime.describe().startswith("torch fp32 (torch ")
    inputs = inputs_of(bundle, name)
    with runtime.load(name) as component:
        (output,) = component.predict(inputs).values()
    net = tiny_checkpoint.load(name)
    with torch.no_grad():
        expected = net(*(torch.from_numpy(value) for value in inputs.values())).numpy()
    np.testing.assert_array_equal(output, expected)


def test_a_checkpoint_that_changed_since_is_refused_unless_named(
    tiny_checkpoint: Checkpoint, runtime_bundle: Bundle
) -> None:
    bundle = bundle_of(tiny_checkpoint, runtime_bundle)
    records = dict(bundle.manifest.components)
    records["unet"] = records["unet"].model_copy(update={"source_sha256": "f" * 64})
    changed = Bundle(bundle.root, bundle.manifest.model_copy(update={"components": records}))
    with pytest.raises(ArtifactError, match=r"its unet has SHA-256 .*, expected ffffffffffff"):
        open_runtime("torch", changed).load("unet")
    open_runtime("torch", changed, source=tiny_checkpoint).load("unet").close()


def test_a_source_that_isnt_here_is_asked_for(tiny_checkpoint: Checkpoint, runtime_bundle: Bundle) -> None:
    bundle = bundle_of(tiny_checkpoint, runtime_bundle, source="runwayml/stable-diffusion-v1-5")
    with pytest.raises(UsageError, match=r"'runwayml/stable-diffusion-v1-5' .* isn't here; name its directory"):
        open_runtime("torch", bundle)
    assert Path(open_runtime("torch", bundle, source=tiny_checkpoint).load("decoder").name) == Path("decoder")
