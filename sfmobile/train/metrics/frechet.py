"""Distances between two sets of feature vectors: Fréchet (Heusel et al., 2017) and kernel (Bińkowski et al., 2018).

Both are computed in float64 and in closed form. The Fréchet distance is biased upwards in small samples, so figures
compare only at equal sample sizes; the kernel distance is unbiased at any size and may come out below zero.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating]


def frechet_distance(x: Features, y: Features) -> float:
    """‖μ₁ − μ₂‖² + tr(C₁ + C₂ − 2 (C₁C₂)^½) of x (N, D) and y (M, D), C the unbiased covariances; N, M ≥ 2.

    With A, B the centred rows scaled so that C₁ = AᵀA and C₂ = BᵀB, tr (C₁C₂)^½ is the sum of the singular values of
    ABᵀ: no matrix square root, no imaginary parts, and exact where N < D makes the covariances singular.
    """
    mean_x, a = _centred(x)
    mean_y, b = _centred(y)
    # QR keeps the factors small where N > D: only RᵀR = AᵀA matters.
    if a.shape[0] > a.shape[1]:
        a = np.asarray(np.linalg.qr(a, mode="r"))
    if b.shape[0] > b.shape[1]:
        b = np.asarray(np.linalg.qr(b, mode="r"))
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    distance = np.sum((mean_x - mean_y) ** 2) + np.sum(a * a) + np.sum(b * b) - 2.0 * cross
    return float(distance)


def _centred(x: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or x.shape[0] < 2:
        raise ValueError(f"expected at least two feature vectors, (N, D), found shape {x.shape}")
    mean = x.mean(axis=0)
    return mean, (x - mean) / np.sqrt(x.shape[0] - 1)


def kernel_distance(x: Features, y: Features) -> float:
    """Unbiased squared MMD of x (N, D) and y (M, D) under the kernel (x·y / D + 1)³, times 1,000."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n, m, dimension = x.shape[0], y.shape[0], x.shape[1]
    within_x = (x @ x.T / dimension + 1.0) ** 3
    within_y = (y @ y.T / dimension + 1.0) ** 3
    between = (x @ y.T / dimension + 1.0) ** 3
    # The diagonals are left out: they would bias the estimate by k(x, x).
    mean_x = (within_x.sum() - np.trace(within_x)) / (n * (n - 1))
    mean_y = (within_y.sum() - np.trace(within_y)) / (m * (m - 1))
    return float(1000.0 * (mean_x + mean_y - 2.0 * between.mean()))


@dataclass(frozen=True)
class FeatureDistance:
    """Both distances of a generated set to the real one, and the floor: real training pictures to the same real set.

    All three sets have the same size, because the Fréchet distance depends on it. A generator can't be expected below
    the floor; the part of a figure above it is the generator's.
    """

    network: str
    samples: int
    fd: float
    kd: float
    fd_floor: float
    kd_floor: float

    def row(self) -> dict[str, float | int]:
        """Figures by their full names, e.g. "FD-EffNetLite0" and "FD-EffNetLite0 floor"."""
        values = asdict(self)
        return {"samples": self.samples} | {
            f"{name.upper()}-{self.network}{suffix}": values[f"{name}{suffix.replace(' ', '_')}"]
            for name in ("fd", "kd")
            for suffix in ("", " floor")
        }


def feature_distance(
    generated: Features, held_out: Features, training: Features, network: str, seed: int = 0
) -> FeatureDistance:
    """Distances of `generated` to `held_out` with the floor of `training`, all cut to the smallest set's size."""
    size = min(len(generated), len(held_out), len(training))
    random = np.random.default_rng(seed)
    fake, real, train = (
        np.asarray(rows)[random.permutation(len(rows))[:size]] for rows in (generated, held_out, training)
    )
    return FeatureDistance(
        network=network,
        samples=size,
        fd=frechet_distance(fake, real),
        kd=kernel_distance(fake, real),
        fd_floor=frechet_distance(train, real),
        kd_floor=kernel_distance(train, real),
    )
