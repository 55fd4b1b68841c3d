"""What is prepared for candidates says what the tables say: encoded counts, with what no key has seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.data.dataset import NOW, Dataset
from recsys.data.encoding.counts import EncodedCounts, encode_counts
from recsys.data.encoding.groups import combine
from recsys.data.split import Part
from recsys.tests.support.shop import Shop


@pytest.fixture(scope="module")
def dataset(shop: Shop) -> Dataset:
    found: Dataset = shop.dataset("time")
    return found


def test_encoded_counts_are_the_encoded_statistics_of_every_key_and_of_none(dataset: Dataset) -> None:
    assert len(dataset.counts) > 1
    for table in dataset.counts:
        codes = np.concatenate([[-1], table.keys, table.keys + 1, [10**9]])
        statistics = list(zip(table.names, table.lookup(codes).T, strict=True))
        expected = encode_counts(statistics, dataset.encoders, len(codes))
        found = EncodedCounts.of(table, dataset.encoders).at(codes)
        assert torch.equal(found.categorical, expected.categorical)
        assert torch.equal(found.numeric, expected.numeric)


@pytest.mark.parametrize("moment", [int(Part.VALID), int(Part.TEST), NOW])
def test_candidates_hold_the_counts_of_their_moment(dataset: Dataset, moment: int) -> None:
    users, items = np.array([3, 0, 7]), np.array([[0, 4], [4, 2], [1, 1]])
    batch = dataset.candidates(users, items, moment)
    owner, flat = np.repeat(np.arange(3), 2), items.reshape(-1)
    first = len(dataset.sides["item"].categorical)
    checked = 0
    for table in dataset.counts_now if moment == NOW else dataset.counts:
        sides = [dataset.config.feature(key).side for key in table.spec.keys]
        if "item" not in sides or "context" in sides:
            continue
        rows = {"user": users[owner], "item": flat}
        codes = combine(
            [dataset.key_codes[k][rows[s]] for k, s in zip(table.spec.keys, sides, strict=True)], table.sizes
        )
        wanted = encode_counts(list(zip(table.names, table.lookup(codes).T, strict=True)), dataset.encoders, 6)
        place = first + dataset.sides["item_counts"].categorical.index(table.names[0])
        assert torch.equal(batch.item.categorical[:, place : place + len(table.names)], wanted.categorical)
        checked += 1
    assert checked
