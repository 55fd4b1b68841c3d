"""The generator of two related tasks: its geometry, its noise, its seeds."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.benchmarks.quality.synthetic_tasks import SyntheticConfig, SyntheticTasks

CORRELATIONS = (-1.0, -0.3, 0.0, 0.5, 0.9, 1.0)


@pytest.mark.parametrize("p", CORRELATIONS)
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_weights_have_the_asked_cosine_and_length(p: float, scale: float) -> None:
    for seed in range(5):
        first, second = SyntheticTasks.build(SyntheticConfig(correlation=p, scale=scale, seed=seed)).weights
        np.testing.assert_allclose([np.linalg.norm(first), np.linalg.norm(second)], scale, rtol=1e-12)
        np.testing.assert_allclose(first @ second / scale**2, p, atol=1e-12)


def test_the_directions_are_orthonormal_and_drawn_anew_by_the_seed() -> None:
    pairs = [SyntheticTasks.build(SyntheticConfig(correlation=0.0, seed=seed)).weights for seed in range(6)]
    for pair in pairs:
        np.testing.assert_allclose(pair @ pair.T, np.eye(2), atol=1e-12)
    between = [abs(a[0] @ b[0]) for i, a in enumerate(pairs) for b in pairs[:i]]
    assert max(between) < 0.5  # directions of independent draws in 100 dimensions are nearly orthogonal


def test_noise_has_the_asked_spread_and_is_independent() -> None:
    tasks = SyntheticTasks.build(SyntheticConfig(noise_sd=0.1))
    x, y = tasks.draw(50_000, np.random.default_rng(1))
    noise = y - tasks.signal(x.astype(np.float64))
    np.testing.assert_allclose(noise.std(0), 0.1, rtol=0.02)
    np.testing.assert_allclose(noise.mean(0), 0.0, atol=0.002)
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.02
    assert abs(np.corrcoef(noise[:, 0], y[:, 0])[0, 1]) < 0.1


def test_labels_are_the_linear_part_plus_the_sinusoids_of_both() -> None:
    tasks = SyntheticTasks.build(SyntheticConfig(width=7, correlation=0.3, sinusoids=3, noise_sd=0.0, seed=2))
    x, y = tasks.draw(4, np.random.default_rng(3))
    for row in range(4):
        for task in range(2):
            s = float(tasks.weights[task] @ x[row].astype(np.float64))
            wanted = s + sum(np.sin(a * s + b) for a, b in zip(tasks.alpha, tasks.beta, strict=True))
            assert y[row, task] == pytest.approx(wanted, abs=1e-4)


def test_inputs_are_standard_normal() -> None:
    x, _ = SyntheticTasks.build(SyntheticConfig(width=20)).draw(20_000, np.random.default_rng(0))
    np.testing.assert_allclose(np.cov(x.T), np.eye(20), atol=0.05)
    np.testing.assert_allclose(x.mean(0), 0.0, atol=0.03)


def test_labels_agree_more_the_more_the_weights_do() -> None:
    agreement = []
    for p in (0.0, 0.5, 0.8, 1.0):
        pairs = []
        for seed in range(10):
            tasks = SyntheticTasks.build(SyntheticConfig(correlation=p, seed=seed))
            pairs.append(np.corrcoef(tasks.draw(4000, np.random.default_rng(seed))[1].T)[0, 1])
        agreement.append(np.mean(pairs))
    assert agreement[0] == pytest.approx(0.0, abs=0.05)
    assert agreement == sorted(agreement)
    assert agreement[1] < 0.5  # below p: the sinusoids bend it
    assert agreement[-1] > 0.97


def test_equal_seeds_give_equal_tasks_and_rows() -> None:
    config = SyntheticConfig(seed=5)
    one, two, other = (SyntheticTasks.build(c) for c in (config, config, SyntheticConfig(seed=6)))
    np.testing.assert_array_equal(one.weights, two.weights)
    np.testing.assert_array_equal(one.alpha, two.alpha)
    assert not np.allclose(one.alpha, other.alpha)
    rng = np.random.default_rng(9)
    first, second = one.draw(10, np.random.default_rng(9)), two.draw(10, rng)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert not np.allclose(first[0], two.draw(10, rng)[0])
