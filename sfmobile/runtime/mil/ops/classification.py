"""What a classifier says."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sfmobile.runtime.mil.ops.registry import op
from sfmobile.runtime.mil.values import Label, Scores


@op("classify", exact=True)
def classify(probabilities: Tensor, *, classes: tuple[str | int, ...]) -> Sequence[Label | Scores]:
    """MIL `classify`: the class of the largest number, and every number by its class."""
    numbers = probabilities.reshape(-1).tolist()
    if len(numbers) != len(classes):
        raise ValueError(f"has {len(numbers)} numbers for {len(classes)} classes")
    scores = dict(zip(classes, numbers, strict=True))
    return Label(classes[max(range(len(numbers)), key=numbers.__getitem__)]), Scores(scores)
