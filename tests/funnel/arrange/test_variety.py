"""Variety against brute force, and what each kind promises."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from recsys.base.arrays import F64
from recsys.funnel.arrange.variety import DPP, MMR, Calibrated, Variety, relevance


def unit(rng: np.random.Generator, count: int, width: int) -> F64:
    vectors = rng.normal(size=(count, width))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def greedy(variety: Variety, count: int, k: int) -> list[int]:
    chosen: list[int] = []
    for _ in range(k):
        worth = variety.worth()
        worth[chosen] = -np.inf
        chosen.append(int(worth.argmax()))
        variety.take(chosen[-1])
    assert len(set(chosen)) == min(k, count)
    return chosen


def kernel(vectors: F64, strength: float) -> F64:
    """L of the paper, written out."""
    quality = np.exp((1 - strength) / (2 * strength) * relevance(len(vectors)))
    return np.asarray(quality[:, None] * (1 + vectors @ vectors.T) / 2 * quality[None, :])


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("strength", [0.1, 0.5, 0.9, 1.0])
def test_dpp_takes_the_largest_determinant_step_by_step(seed: int, strength: float) -> None:
    vectors = unit(np.random.default_rng(seed), 8, 5)
    whole = kernel(vectors, strength)
    chosen: list[int] = []
    for item in greedy(DPP(vectors, strength), 8, 5):
        gains = {
            other: np.linalg.det(whole[np.ix_([*chosen, other], [*chosen, other])])
            for other in range(8)
            if other not in chosen
        }
        assert gains[item] == pytest.approx(max(gains.values()), rel=1e-9)
        chosen.append(item)


def test_dpp_says_the_gain_in_log_det() -> None:
    vectors = unit(np.random.default_rng(1), 12, 6)
    variety, whole = DPP(vectors, 0.4), kernel(vectors, 0.4)
    variety.take(3)
    variety.take(7)
    before = np.linalg.slogdet(whole[np.ix_([3, 7], [3, 7])])[1]
    for other in (0, 5, 11):
        after = np.linalg.slogdet(whole[np.ix_([3, 7, other], [3, 7, other])])[1]
        assert variety.worth()[other] == pytest.approx(after - before, rel=1e-9)


def test_dpp_takes_no_second_equal_vector_while_others_are_left() -> None:
    rng = np.random.default_rng(2)
    vectors = np.repeat(unit(rng, 6, 8), 4, axis=0)[rng.permutation(24)]
    first = greedy(DPP(vectors, 0.3), 24, 6)
    assert len({tuple(np.round(vectors[item], 9)) for item in first}) == 6
    rest = greedy(DPP(vectors, 0.3), 24, 24)[6:]
    assert rest == sorted(rest)  # nothing new is left: by relevance


@pytest.mark.parametrize("seed", range(20))
def test_mmr_is_the_papers_step(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, strength, told = unit(rng, 9, 4), float(rng.uniform(0.1, 0.9)), relevance(9)
    chosen: list[int] = []
    for item in greedy(MMR(vectors, strength), 9, 6):
        values = {
            other: (1 - strength) * told[other]
            - strength * max((float(vectors[other] @ vectors[one]) for one in chosen), default=0.0)
            for other in range(9)
            if other not in chosen
        }
        assert values[item] == pytest.approx(max(values.values()))
        chosen.append(item)


def test_calibrated_lists_come_as_near_to_the_history_as_any_order_can() -> None:
    """With variety alone and one value an item, the greedy list has the shares of the history."""
    codes = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    shares, wanted = np.eye(3)[codes], np.array([0.5, 0.3, 0.2])
    chosen = greedy(Calibrated(codes[:, None], wanted, 1.0), 10, 10)
    listed = shares[chosen[:4]].sum(0)
    best = min(_divergence(wanted, shares[list(some)].mean(0)) for some in permutations(range(10), 4))
    assert _divergence(wanted, listed / 4) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(20))
def test_calibrated_is_the_papers_step(seed: int) -> None:
    """Of items with up to three of five values, or none, two of which the history lacks."""
    rng = np.random.default_rng(seed)
    codes = np.full((12, 3), 5)
    shares = np.zeros((12, 5))
    for item in range(1, 12):
        own = rng.choice(5, int(rng.integers(1, 4)), replace=False)
        codes[item, : len(own)], shares[item, own] = own, 1 / len(own)
    wanted, strength = np.append(rng.dirichlet(np.ones(3)), [0.0, 0.0]), float(rng.uniform(0.1, 1.0))
    told, chosen = wanted > 0, list[int]()
    for item in greedy(Calibrated(codes, wanted, strength), 12, 8):
        values = {
            other: (1 - strength) * relevance(12)[other]
            - strength * _divergence(wanted[told], shares[[*chosen, other]].mean(0)[told])
            for other in range(12)
            if other not in chosen
        }
        assert values[item] == pytest.approx(max(values.values()))
        chosen.append(item)


def _divergence(wanted: F64, listed: F64) -> float:
    return float((wanted * np.log(wanted / (0.99 * listed + 0.01 * wanted))).sum())


def test_a_user_without_history_is_answered_by_relevance() -> None:
    variety = Calibrated(np.arange(4)[:, None], np.zeros(4), 0.8)
    assert greedy(variety, 4, 4) == [0, 1, 2, 3]
