"""The golden vectors against the manifest: what the host computes, with the networks' answers played back.

No network runs. The loop of the bundle, by its own manifest and tokenizer, is given the outputs that were recorded at
export, and everything between them is compared: token ids, noise, timesteps, time embeddings, the latents behind every
step, what the decoder is given. A constant changed since, or by a slip of whatever wrote it, shows where it is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from sfmobile.errors import SfmobileError
from sfmobile.runtime.component import Component
from sfmobile.sampling.noise import initial_latents
from sfmobile.sampling.pipeline import Request, TextToImage
from sfmobile.sampling.tokenizer import Tokenizer, tokenizers_of
from sfmobile.verify.signal import agreement

if TYPE_CHECKING:
    from sfmobile.bundle.directory import Bundle
    from sfmobile.bundle.manifest import ComponentName, ComponentRecord

# The same few float32 operations on both sides; another numpy may round one of them otherwise.
REPLAY_GATE_DB = 100.0


def replay_faults(bundle: Bundle) -> list[str]:
    """What the golden vectors contradict in the bundle's manifest and tokenizer, in words.

    Raises `ArtifactError` if the bundle has none.
    """
    try:
        tokenizers = tokenizers_of(bundle)
        faults = [fault for name, tokenizer in tokenizers.items() for fault in _texts(bundle, name, tokenizer)]
        return [*faults, *_noise(bundle), *_defaults(bundle), *_loop(bundle, tokenizers)]
    except SfmobileError as error:
        return [f"the golden run can't be replayed: {error}"]


def _texts(bundle: Bundle, name: str, tokenizer: Tokenizer) -> Iterator[str]:
    content = bundle.golden("tokenizer.texts").tobytes()
    offsets = bundle.golden("tokenizer.offsets")
    for start, end, ids in zip(offsets[:-1], offsets[1:], bundle.golden(f"{name}.ids"), strict=True):
        text = content[start:end].decode()
        found = tokenizer.encode(text)[0]
        if not np.array_equal(found, ids):
            yield f"the {name} gives other ids for {text[:40]!r} than the golden vectors have"
            return


def _noise(bundle: Bundle) -> Iterator[str]:
    values = bundle.golden("noise.values")
    for seed, expected in zip(bundle.golden("noise.seeds"), values, strict=True):
        if not np.array_equal(initial_latents(int(seed), expected.shape), expected):
            yield f"the noise of seed {int(seed)} isn't that of the golden vectors"
            return


def _defaults(bundle: Bundle) -> Iterator[str]:
    manifest = bundle.manifest
    golden = manifest.golden
    assert golden is not None
    if golden.guidance_scale != manifest.guidance.default_scale:
        yield (
            f"guidance.default_scale is {manifest.guidance.default_scale:g} in the manifest and the golden run's is "
            f"{golden.guidance_scale:g}"
        )
    if golden.steps > manifest.pipeline.default_steps:
        yield (
            f"pipeline.default_steps is {manifest.pipeline.default_steps} in the manifest and the golden run has "
            f"{golden.steps}"
        )


def _loop(bundle: Bundle, tokenizers: Mapping[str, Tokenizer]) -> Iterator[str]:
    golden = bundle.manifest.golden
    assert golden is not None
    request = Request(golden.prompt, golden.negative_prompt, golden.seed, golden.steps, golden.guidance_scale)
    latents, timesteps = bundle.golden("run.latents"), bundle.golden("run.timesteps")
    player = _Player(bundle)
    with TextToImage(player, bundle.manifest, tokenizers) as pipeline:
        for step in pipeline.steps(request, latents[:1]):
            if step.timestep != timesteps[step.index]:
                yield (
                    f"step {step.index + 1} of the golden run is at timestep {timesteps[step.index]}, by the manifest "
                    f"it would be at {step.timestep}"
                )
                return
            found = agreement(latents[step.index + 1][None], step.latents)
            if not found.reaches(REPLAY_GATE_DB):
                yield f"the manifest's sampler leaves the golden run at step {step.index + 1}: {found}"
                return
        pipeline.decode(step.latents)
    known = bundle.manifest.pipeline
    taken_by = [*((name, "input_ids") for name in known.text_encoders), (known.unet, "time_embedding")]
    if known.added is not None:
        taken_by.append((known.unet, known.added.input))
    for name, key in (*taken_by, (known.decoder, "latents")):
        taken = player.inputs.get(f"{name}.{key}")
        expected = bundle.golden(f"{name}.{key}")
        if taken is not None and not agreement(expected[:1], taken[:1]).reaches(REPLAY_GATE_DB):
            yield f"by the manifest, {name} would be given other {key} than in the golden run"


class _Player:
    """A runtime that gives what was recorded and keeps the last inputs, by component and name."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.inputs: dict[str, np.ndarray] = {}
        self.predictions = iter(bundle.golden("run.model_output"))

    def describe(self) -> str:
        return "the golden vectors, played back"

    def load(self, name: ComponentName) -> Component:
        return _Played(name, self.bundle.manifest.components[name], self)


class _Played(Component):
    """One component of the recording. Both rows of a guided pair get the guided output: guiding changes nothing."""

    def __init__(self, name: ComponentName, record: ComponentRecord, player: _Player) -> None:
        super().__init__(name, record)
        self._player = player
        self._before: tuple[np.ndarray, np.ndarray] | None = None

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        bundle = self._player.bundle
        known = bundle.manifest.pipeline
        negative = self.name in known.text_encoders and f"{self.name}.input_ids" in self._player.inputs
        if not negative:
            self._player.inputs.update({f"{self.name}.{key}": value for key, value in inputs.items()})
        if self.name != known.unet:
            return {one.name: bundle.golden(f"{self.name}.{one.name}") for one in self.outputs}
        (output,) = self.outputs
        latents = inputs["latents"]
        # Two calls for the same latents are the two halves of guidance.
        if self._before is None or not np.array_equal(self._before[0], latents):
            self._before = latents.copy(), next(self._player.predictions)
        return {output.name: np.repeat(self._before[1][None], len(latents), axis=0)}

    def free(self) -> None:
        """Nothing is held."""
