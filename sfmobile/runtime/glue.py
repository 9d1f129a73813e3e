"""Small models between the programs of a pipeline: what chooses boxes, puts numbers together, scales them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sfmobile.errors import UsageError

Values = Mapping[str, Any]
Glue = Callable[[Any, Values], dict[str, Any]]
GLUES: dict[str, Glue] = {}


def _glues(kind: str) -> Callable[[Glue], Glue]:
    def register(function: Glue) -> Glue:
        GLUES[kind] = function
        return function

    return register


def _number(value: Any, default: float) -> float:
    return default if value is None else float(np.asarray(value).reshape(-1)[0])


@_glues("nonMaximumSuppression")
def non_maximum_suppression(model: Any, values: Values) -> dict[str, Any]:
    """NonMaximumSuppression.proto: confidence (B, K) and coordinates (B, 4: center x and y, width, height) of the boxes
    that survive, the best first."""
    import torch

    from sfmobile.runtime.mil.ops.sampling import suppressed

    settings = model.nonMaximumSuppression
    confidence = np.asarray(values[settings.confidenceInputFeatureName], dtype=np.float32)
    coordinates = np.asarray(values[settings.coordinatesInputFeatureName], dtype=np.float32)
    confidence = confidence.reshape(-1, confidence.shape[-1])
    coordinates = coordinates.reshape(-1, 4)
    if len(confidence) != len(coordinates):
        raise UsageError(f"A pipeline chooses from {len(coordinates)} boxes with {len(confidence)} confidences.")
    least = _number(values.get(settings.confidenceThresholdInputFeatureName), settings.confidenceThreshold)
    overlap = _number(values.get(settings.iouThresholdInputFeatureName), settings.iouThreshold)
    best, classes = confidence.max(-1), confidence.argmax(-1)
    able = np.flatnonzero(best >= least)
    kept = suppressed(
        torch.from_numpy(coordinates[able]),
        torch.from_numpy(best[able]),
        torch.from_numpy(classes[able]) if settings.pickTop.perClass else None,
        overlap,
    )
    places = able[kept]
    return {
        settings.confidenceOutputFeatureName: confidence[places],
        settings.coordinatesOutputFeatureName: coordinates[places],
    }


@_glues("featureVectorizer")
def feature_vectorizer(model: Any, values: Values) -> dict[str, Any]:
    """FeatureVectorizer.proto: numbers and vectors one behind the other."""
    columns = [
        np.asarray(values[one.inputColumn], dtype=np.float64).reshape(-1) for one in model.featureVectorizer.inputList
    ]
    return {model.description.output[0].name: np.concatenate(columns)}


@_glues("scaler")
def scaler(model: Any, values: Values) -> dict[str, Any]:
    """Scaler.proto: (x + shift) * scale, each one number or one for every value."""
    array = np.asarray(values[model.description.input[0].name], dtype=np.float64)
    shift = np.array(model.scaler.shiftValue or [0.0])
    scale = np.array(model.scaler.scaleValue or [1.0])
    return {model.description.output[0].name: (array + shift) * scale}


@_glues("arrayFeatureExtractor")
def array_feature_extractor(model: Any, values: Values) -> dict[str, Any]:
    """ArrayFeatureExtractor.proto: the values at some indices."""
    array = np.asarray(values[model.description.input[0].name]).reshape(-1)
    places = list(model.arrayFeatureExtractor.extractIndex)
    if places and max(places) >= array.size:
        raise UsageError(f"A pipeline takes the value at {max(places)} of an array of {array.size}.")
    return {model.description.output[0].name: array[places]}


@_glues("identity")
def identity(model: Any, values: Values) -> dict[str, Any]:
    """Identity.proto: every output is the input of its place."""
    pairs = zip(model.description.input, model.description.output, strict=False)
    return {output.name: values[given.name] for given, output in pairs}
