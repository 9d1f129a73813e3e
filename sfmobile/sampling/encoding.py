"""A prompt's encodings, one for each text encoder of a pipeline, and what a UNet takes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from sfmobile.bundle.manifest import ComponentName
from sfmobile.bundle.pipeline import PipelineRecord, TextCondition
from sfmobile.runtime.protocol import LoadedComponent
from sfmobile.sampling.guidance import check_finite
from sfmobile.sampling.prompt import Prompt, beside, weighed


@dataclass(frozen=True)
class Encoding:
    """What one text encoder makes of a prompt.

    states: float32 (1, C, 1, S) of all of its chunks, side by side and weighed. outputs: of the encoder for the first
    chunk, as it gave them, by name.
    """

    states: np.ndarray
    outputs: Mapping[str, np.ndarray]


def encode(text: TextCondition, prompt: Prompt, encoder: LoadedComponent) -> Encoding:
    """`prompt` through the encoder of a condition. Raises `GateError` for NaN or infinity."""
    states: list[np.ndarray] = []
    first: dict[str, np.ndarray] = {}
    for chunk in prompt.chunks:
        outputs = encoder.predict({"input_ids": chunk.ids})
        for found in outputs.values():
            check_finite(found, text.component.replace("_", " "))
        first = first or dict(outputs)
        states.append(weighed(outputs["encoder_hidden_states"], chunk.weights))
    return Encoding(beside(states, text.chunks), first)


def encodings(
    pipeline: PipelineRecord,
    cut: Callable[[TextCondition], Prompt],
    component: Callable[[ComponentName], LoadedComponent],
) -> dict[ComponentName, Encoding]:
    """The prompt's encoding by each text encoder. cut: the prompt by the tokenizer of a condition."""
    return {text.component: encode(text, cut(text), component(text.component)) for text in pipeline.texts}


def joined(pipeline: PipelineRecord, found: Mapping[ComponentName, Encoding]) -> dict[str, np.ndarray]:
    """Hidden states by the UNet's input (1, C, 1, S): encoders of one input have their channels joined."""
    inputs: dict[str, list[np.ndarray]] = {}
    for text in pipeline.texts:
        inputs.setdefault(text.input, []).append(found[text.component].states)
    return {name: states[0] if len(states) == 1 else np.concatenate(states, axis=1) for name, states in inputs.items()}


def zeros_for(pipeline: PipelineRecord, negative_prompt: str) -> bool:
    """Whether zeros stand for what `negative_prompt` would be encoded to."""
    return not negative_prompt and pipeline.added is not None and pipeline.added.zeros_without_negative


def without_text(pipeline: PipelineRecord, conditions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a call of the UNet takes, by input, with zeros in place of what comes from the prompt."""
    found = dict(conditions)
    for text in pipeline.texts:
        found[text.input] = np.zeros_like(found[text.input])
    if (added := pipeline.added) is not None:
        found[added.input] = found[added.input].copy()
        found[added.input][:, : added.pooled] = 0
    return found
