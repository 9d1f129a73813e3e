"""Distances between two sets of feature vectors: Fréchet (Heusel et al., 2017) and kernel (Bińkowski et al., 2018).

Both are computed in float64, in closed form, on the features' device. The Fréchet distance is biased upwards in small
samples, so figures compare only at equal sample sizes; the kernel distance is unbiased at any size and may come out
below zero.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """‖μ₁ − μ₂‖² + tr(C₁ + C₂ − 2 (C₁C₂)^½) of x (N, D) and y (M, D), C the unbiased covariances; N, M ≥ 2.

    With A, B the centred rows scaled so that C₁ = AᵀA and C₂ = BᵀB, tr (C₁C₂)^½ is the sum of the singular values of
    ABᵀ: no matrix square root, no imaginary parts, and exact where N < D makes the covariances singular.
    """
    mean_x, a = _centred(x)
    mean_y, b = _centred(y)
    # QR keeps the factors small where N > D: only RᵀR = AᵀA matters.
    if a.shape[0] > a.shape[1]:
        a = torch.linalg.qr(a, mode="r").R
    if b.shape[0] > b.shape[1]:
        b = torch.linalg.qr(b, mode="r").R
    cross = torch.linalg.svdvals(a @ b.T).sum()
    return float((mean_x - mean_y).square().sum() + a.square().sum() + b.square().sum() - 2.0 * cross)


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    if x.ndim != 2 or x.shape[0] < 2:
        raise ValueError(f"expected at least two feature vectors, (N, D), found shape {tuple(x.shape)}")
    x = x.double()
    mean = x.mean(dim=0)
    return mean, (x - mean) / (x.shape[0] - 1) ** 0.5


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Unbiased squared MMD of x (N, D) and y (M, D) under the kernel (x·y / D + 1)³, times 1,000."""
    x, y = x.double(), y.double()
    n, m, dimension = x.shape[0], y.shape[0], x.shape[1]
    within_x = (x @ x.T / dimension + 1.0) ** 3
    within_y = (y @ y.T / dimension + 1.0) ** 3
    between = (x @ y.T / dimension + 1.0) ** 3
    # The diagonals are left out: they would bias the estimate by k(x, x).
    mean_x = (within_x.sum() - within_x.trace()) / (n * (n - 1))
    mean_y = (within_y.sum() - within_y.trace()) / (m * (m - 1))
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


class DistanceMeter:
    """Measures generated sets against one real held-out set; the floor of real training pictures is computed once.

    The real sets are cut to the smaller one's size, and so must be what is measured.
    """

    def __init__(self, held_out: Tensor, training: Tensor, network: str) -> None:
        self.network = network
        self.size = min(len(held_out), len(training))
        self._real = held_out[: self.size]
        floor = training[: self.size]
        self._floor = frechet_distance(floor, self._real), kernel_distance(floor, self._real)

    def floor_row(self) -> dict[str, float | int]:
        """The floor's figures alone, by their full names."""
        fd, kd = self._floor
        return {"samples": self.size, f"FD-{self.network} floor": fd, f"KD-{self.network} floor": kd}

    def measure(self, generated: Tensor) -> FeatureDistance:
        """Distances of the first `size` rows of `generated`. Raises ValueError if it has fewer."""
        if len(generated) < self.size:
            raise ValueError(f"expected at least {self.size} generated feature vectors, found {len(generated)}")
        fake = generated[: self.size]
        return FeatureDistance(
            network=self.network,
            samples=self.size,
            fd=frechet_distance(fake, self._real),
            kd=kernel_distance(fake, self._real),
            fd_floor=self._floor[0],
            kd_floor=self._floor[1],
        )
