"""Negatives from memory and from the model's own mistakes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.retrieval.towers.negatives import InclusionSample, NegativeMemory, WeightedSample, mine_hard_negatives


def test_negative_memory_keeps_the_newest_and_comes_back_from_its_state() -> None:
    memory = NegativeMemory(5, 2)
    assert len(memory.columns().ids) == 0
    for start in range(0, 9, 3):
        ids = torch.arange(start, start + 3)
        memory.push(ids[:, None].float().expand(3, 2).requires_grad_(), ids, -ids.float())
    kept = memory.columns()
    assert sorted(kept.ids.tolist()) == [4, 5, 6, 7, 8]
    assert torch.equal(kept.vectors[:, 0], kept.ids.float())
    assert torch.equal(kept.log_q, -kept.ids.float())
    assert not kept.vectors.requires_grad
    other = NegativeMemory(1, 1)
    other.load_state_dict(memory.state_dict())
    for again in (memory, other):
        again.push(torch.ones(2, 2), torch.tensor([70, 71]), torch.zeros(2))
        assert sorted(again.columns().ids.tolist()) == [6, 7, 8, 70, 71]
    ids = torch.arange(100, 109)
    memory.push(ids[:, None].float().expand(9, 2), ids, torch.zeros(9))
    assert sorted(memory.columns().ids.tolist()) == [104, 105, 106, 107, 108]
    assert torch.equal(memory.columns().vectors[:, 1], memory.columns().ids.float())


def test_hard_negatives_are_the_best_items_that_are_not_the_rows_own() -> None:
    generator = torch.Generator().manual_seed(1)
    items, query = torch.randn(30, 4, generator=generator), torch.randn(6, 4, generator=generator)
    exclude = torch.randint(-1, 30, (6, 5), generator=generator)
    order = (query @ items.T).argsort(1, descending=True)
    exclude[:, 0] = order[:, 2]

    def search(queries: Tensor, k: int) -> Tensor:
        return (queries @ items.T).topk(k).indices

    mined = mine_hard_negatives(query, search, exclude, 7, 30, skip_top=2)
    for row in range(6):
        allowed = [i for i in order[row].tolist() if i not in exclude[row].tolist()]
        assert mined[row].tolist() == allowed[2:9]

    def short(queries: Tensor, k: int) -> Tensor:  # an index that found three items, and nothing in second place
        found = torch.where(torch.arange(k) < 4, search(queries, k), -1)
        found[:, 1] = -1
        return found

    mined = mine_hard_negatives(query, short, torch.full((6, 1), -1), 4, 30)
    assert torch.equal(mined, torch.cat([order[:, [0, 2, 3]], torch.full((6, 1), -1)], 1))


@pytest.mark.parametrize("count", [1, 5, 12, 40])
def test_items_are_drawn_as_often_as_their_probability_says(count: int) -> None:
    frequency = torch.tensor([0.5, 0.2, 0.1, *[0.2 / 17] * 17], dtype=torch.float64)
    sample = InclusionSample(frequency, count)
    assert sample.count == min(count, 20)
    assert sample.probability.sum().item() == pytest.approx(sample.count)
    assert (sample.probability <= 1).all()
    generator = torch.Generator().manual_seed(3)
    met = torch.zeros(20)
    for _ in range(2000):
        drawn = sample.draw(generator)
        assert len(drawn.unique()) == sample.count
        met[drawn] += 1
    torch.testing.assert_close(met / 2000, sample.probability.float(), rtol=0, atol=0.04)
    assert (met[sample.probability == 1] == 2000).all()
    chances = sample.probability[sample.probability < 1] / (frequency + 1 / 20)[sample.probability < 1]
    assert len(chances) == 0 or chances.max().item() == pytest.approx(chances.min().item())


def test_weights_by_inclusion_sum_to_the_catalogue_on_average() -> None:
    frequency = torch.rand(50, generator=torch.Generator().manual_seed(0)) ** 4
    sample = InclusionSample(frequency / frequency.sum(), 10)
    worth = torch.rand(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    sums = [(worth / sample.probability)[sample.draw(generator)].sum().item() for _ in range(3000)]
    assert sum(sums) / 3000 == pytest.approx(worth.sum().item(), rel=0.02)


def test_items_are_drawn_by_the_power_of_their_share() -> None:
    frequency = torch.tensor([0.6, 0.3, 0.09, 0.01])
    sample = WeightedSample(frequency, 200_000, 0.75)
    expected = frequency.double() ** 0.75
    expected /= expected.sum()
    share = torch.bincount(sample.draw(torch.Generator().manual_seed(0)), minlength=4) / 200_000
    torch.testing.assert_close(share.double(), expected, rtol=0.0, atol=4e-3)
    torch.testing.assert_close(sample.log_expected.exp() / 200_000, expected.float())


@pytest.mark.parametrize("power", [0.0, 0.75, 1.0])
def test_corrected_by_log_q_the_denominator_is_that_of_the_full_softmax(power: float) -> None:
    """The mean of many estimates from 20 of 50 items is the sum over all others; uncorrected it is far from it."""
    generator = torch.Generator().manual_seed(1)
    frequency = torch.arange(1, 51).double() ** -1.0
    frequency /= frequency.sum()
    scores = torch.randn(50, generator=generator) + 0.3 * frequency.log().float()
    sample = WeightedSample(frequency, 20, power)
    positive = 3
    truth = float(scores.exp().sum() - scores[positive].exp())
    found = []
    for _ in range(4000):
        drawn = sample.draw(generator)
        drawn = drawn[drawn != positive]
        found.append(float((scores[drawn] - sample.log_expected[drawn]).exp().sum()))
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - truth) < 4 * error
