from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg

from sfmobile.evaluate.metrics.frechet import DistanceMeter
from sfmobile.evaluate.metrics.frechet import frechet_distance as torch_frechet_distance
from sfmobile.evaluate.metrics.frechet import kernel_distance as torch_kernel_distance

RANDOM = np.random.default_rng(0)


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    return torch_frechet_distance(torch.from_numpy(x.copy()), torch.from_numpy(y.copy()))


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    return torch_kernel_distance(torch.from_numpy(x.copy()), torch.from_numpy(y.copy()))


def test_distance_of_a_set_to_itself_is_zero() -> None:
    x = RANDOM.normal(size=(40, 64))
    assert abs(frechet_distance(x, x)) < 1e-8
    assert abs(frechet_distance(x, x[::-1])) < 1e-8


@pytest.mark.parametrize(("n", "m"), [(200, 150), (20, 30), (9, 200)], ids=["N > D", "N < D", "mixed"])
def test_frechet_distance_is_the_matrix_square_root_formula(n: int, m: int) -> None:
    x = RANDOM.normal(size=(n, 32)) @ RANDOM.normal(size=(32, 32)) + 1.5
    y = RANDOM.normal(size=(m, 32))
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = linalg.sqrtm((a @ b).astype(np.complex128))
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root).real
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-4)


def test_frechet_distance_of_known_gaussians() -> None:
    """Independent coordinates: the sum of (difference of means)² + (difference of deviations)²."""
    base = RANDOM.normal(size=(4000, 3))
    base = (base - base.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(base, rowvar=False)).T)
    x = base * [1.0, 2.0, 0.5]
    y = base[::-1] * [1.0, 1.0, 3.0] + [0.0, 4.0, 0.0]
    assert frechet_distance(x, y) == pytest.approx(16 + 1 + 6.25, rel=1e-9)


def test_kernel_distance_is_the_double_sum() -> None:
    x, y = RANDOM.normal(size=(6, 5)), RANDOM.normal(size=(4, 5)) + 0.5

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return (a @ b / 5 + 1) ** 3

    within_x = np.mean([kernel(x[i], x[j]) for i in range(6) for j in range(6) if i != j])
    within_y = np.mean([kernel(y[i], y[j]) for i in range(4) for j in range(4) if i != j])
    between = np.mean([kernel(a, b) for a in x for b in y])
    assert kernel_distance(x, y) == pytest.approx(1000 * (within_x + within_y - 2 * between))


def test_kernel_distance_is_unbiased_where_the_frechet_distance_is_not() -> None:
    draws = RANDOM.normal(size=(400, 2, 12, 8))
    kernel = np.array([kernel_distance(x, y) for x, y in draws])
    frechet = np.array([frechet_distance(x, y) for x, y in draws])
    error = kernel.std() / np.sqrt(len(kernel))
    assert abs(kernel.mean()) < 4 * error
    assert (kernel < 0).any()
    assert frechet.min() > 0


def test_both_see_a_shifted_set() -> None:
    x, y = RANDOM.normal(size=(300, 16)), RANDOM.normal(size=(300, 16))
    assert frechet_distance(x, y + 1) > 3 * frechet_distance(x, y)
    assert kernel_distance(x, y + 1) > 100


def test_figures_have_one_sample_size_a_floor_and_the_networks_name() -> None:
    train, held_out = RANDOM.normal(size=(500, 8)), RANDOM.normal(size=(80, 8))
    meter = DistanceMeter(torch.from_numpy(held_out), torch.from_numpy(train), "EffNetLite0")
    generated = RANDOM.normal(size=(200, 8)) + 1
    found = meter.measure(torch.from_numpy(generated))
    assert found.samples == meter.size == 80
    assert found.fd == pytest.approx(frechet_distance(generated[:80], held_out))
    assert found.kd_floor == pytest.approx(kernel_distance(train[:80], held_out))
    assert found.fd > found.fd_floor > 0
    row = found.row()
    assert row["FD-EffNetLite0"] == found.fd
    assert row["KD-EffNetLite0 floor"] == found.kd_floor
    assert not any("FID" in name for name in row)
    with pytest.raises(ValueError, match="at least 80 generated"):
        meter.measure(torch.from_numpy(generated[:79]))


def test_too_few_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two"):
        frechet_distance(np.ones((1, 4)), np.ones((5, 4)))
