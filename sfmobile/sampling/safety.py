"""Whether a picture may be shown: its embedding against a safety checker's concepts, as in diffusers.

The component gives an embedding (CLIP's vision encoder); everything before and behind it is the host's, in full
precision: the picture scaled and normalised as transformers' CLIPImageProcessor does with Pillow, cosines, thresholds.
Scores are rounded to three digits before they are held to zero, as diffusers' StableDiffusionSafetyChecker does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sfmobile.bundle.directory import Bundle, BundleError, read_vector
from sfmobile.bundle.manifest import Manifest, SafetyPictureRecord, SafetyRecord
from sfmobile.sampling.given import rescaled

# What is added to the scores behind a special concept that was found: whatever is near it is looked at more strictly.
ADJUSTMENT = np.float32(0.01)
DIGITS = 3
# torch's normalize divides by no less.
LEAST_NORM = 1e-12


@dataclass(frozen=True)
class Verdict:
    """What a safety checker says of one picture.

    concepts, special_care: how far the cosine with each is above its threshold, rounded to three digits; those of
    `special_care` only make it stricter.
    """

    concepts: tuple[float, ...]
    special_care: tuple[float, ...]

    @property
    def flagged(self) -> bool:
        """Whether a concept was found: the picture is shown black."""
        return any(score > 0 for score in self.concepts)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "flagged": self.flagged,
            "concept_scores": list(self.concepts),
            "special_care_scores": list(self.special_care),
        }


@dataclass(frozen=True)
class SafetyConcepts:
    """Embeddings float32 (n, D) of what is looked for, and the record of their thresholds."""

    concepts: np.ndarray
    special_care: np.ndarray
    record: SafetyRecord

    @classmethod
    def of(cls, bundle: Bundle) -> SafetyConcepts | None:
        """Those of a bundle, or None if it has no safety checker. Raises `BundleError` if they don't fit it."""
        record = bundle.manifest.safety
        if record is None:
            return None
        width = _width(bundle.manifest)
        rows = []
        for path, thresholds in (
            (record.concepts, record.concept_thresholds),
            (record.special_care, record.special_care_thresholds),
        ):
            found = read_vector(bundle.root / path)
            if found.shape != (len(thresholds), width) or found.dtype != np.float32:
                raise BundleError(
                    "wrong_size",
                    f"'{bundle.root / path}' holds {found.dtype} values of shape {found.shape}: expected float32 "
                    f"{(len(thresholds), width)}; export it again or copy the bundle anew.",
                )
            rows.append(found)
        concepts, special_care = rows
        return cls(concepts, special_care, record)

    def judge(self, embedding: np.ndarray) -> Verdict:
        """The verdict on a picture's embedding, float32 (1, D)."""
        near = _cosines(embedding, self.special_care)
        special: list[float] = []
        adjustment = np.float32(0)
        for cosine, threshold in zip(near, self.record.special_care_thresholds, strict=True):
            special.append(_score(cosine, threshold, adjustment))
            if special[-1] > 0:
                adjustment = ADJUSTMENT
        cosines = _cosines(embedding, self.concepts)
        concepts = (
            _score(cosine, threshold, adjustment)
            for cosine, threshold in zip(cosines, self.record.concept_thresholds, strict=True)
        )
        return Verdict(tuple(concepts), tuple(special))


def pixel_values(pixels: np.ndarray, record: SafetyPictureRecord) -> np.ndarray:
    """Pixels uint8 (H, W, 3) as the component takes them, float32 (1, 3, S, S)."""
    from PIL import Image

    height, width, _ = pixels.shape
    size = resized(width, height, record.shortest_edge)
    scaled = np.asarray(rescaled(Image.fromarray(pixels), size, Image.Resampling.BICUBIC))
    side = record.crop_size
    top, left = (scaled.shape[0] - side) // 2, (scaled.shape[1] - side) // 2
    cut = scaled[top : top + side, left : left + side].astype(np.float64) / 255
    values = (cut - np.array(record.mean)) / np.array(record.std)
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None].astype(np.float32))


def resized(width: int, height: int, shortest_edge: int) -> tuple[int, int]:
    """Width and height with the shorter side at `shortest_edge`, the longer in proportion and rounded down."""
    if width <= height:
        return shortest_edge, shortest_edge * height // width
    return shortest_edge * width // height, shortest_edge


def _cosines(embedding: np.ndarray, rows: np.ndarray) -> Sequence[np.float32]:
    """Cosine of the embedding (1, D) with each row, float32."""

    def unit(values: np.ndarray) -> np.ndarray:
        wide = values.astype(np.float64)
        norms = np.sqrt(np.square(wide).sum(axis=1, keepdims=True))
        normed: np.ndarray = wide / np.maximum(norms, LEAST_NORM)
        return normed

    return list((unit(rows) @ unit(embedding)[0]).astype(np.float32))


def _score(cosine: np.float32, threshold: float, adjustment: np.float32) -> float:
    return float(np.round(cosine - np.float32(threshold) + adjustment, DIGITS))


def _width(manifest: Manifest) -> int:
    (embedding,) = manifest.components[manifest.pipeline.safety_checker].outputs
    return embedding.shape[-1]
