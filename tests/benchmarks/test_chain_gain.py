"""The chain's measurement: differences are taken seed by seed; the control differs in what a row stands for only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from recsys.benchmarks.quality import chain_gain
from recsys.benchmarks.quality.chain_gain import Chain, one_in, seed_by_seed
from recsys.data.split import Part
from recsys.data.vocabulary import FIRST
from recsys.pipeline.warm_start import Copied
from recsys.testing.toy import Toy
from recsys.tests.support.shop import Shop


def test_differences_are_taken_seed_by_seed() -> None:
    own = [{"test/auc": 0.7, "seconds": 3.0}, {"test/auc": 0.8, "seconds": 3.0}]
    other = [{"test/auc": 0.6, "seconds": 9.0}, {"test/auc": 0.9, "seconds": 9.0}]
    found = seed_by_seed(own, other)
    assert set(found) == {"test/auc"}
    assert found["test/auc"]["mean"] == pytest.approx(0.0)
    assert found["test/auc"]["sd"] == pytest.approx(np.std([0.1, -0.1], ddof=1))
    assert found["test/auc"]["above"] == 1


def test_a_share_of_the_rows_leaves_histories_and_counts_whole(shop: Shop) -> None:
    dataset = shop.dataset("time")
    few = one_in(dataset, 4)
    rows, kept = (len(one.rows(Part.TRAIN)) for one in (dataset, few))
    assert 0.1 * rows < kept < 0.45 * rows
    assert few.counts is dataset.counts
    assert few.sequences is dataset.sequences
    for part in (Part.VALID, Part.TEST):
        assert torch.equal(few.rows(part), dataset.rows(part))


def test_the_control_gives_every_row_to_another_value(shop: Shop, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def begun(ranker: Any, *_: object) -> list[Copied]:
        with torch.no_grad():
            for table in ranker.tables():
                table.rows_of("item").copy_(torch.arange(12.0)[:, None].expand(12, table.dim))
        return [Copied(vocabulary="item", kept=10, new=0, dropped=0)]

    monkeypatch.setattr(chain_gain, "warm_start_ranker", begun)
    monkeypatch.setattr(Chain, "retriever", lambda *_: None)
    monkeypatch.setattr(Chain, "width", lambda *_: 4)
    chain = Chain(None, None, shop.dataset("time"))  # type: ignore[arg-type]
    rows = {}
    for name in ("cold", "warm", "shuffled"):
        ranker = toy.ranker("shared_bottom")
        chain.begin(name, ranker, 1)
        rows[name] = ranker.tables()[0].rows_of("item").detach()[:, 0].tolist()
    assert rows["cold"] != rows["warm"] == list(range(12))
    assert rows["shuffled"] != rows["warm"]
    assert rows["shuffled"][:FIRST] == rows["warm"][:FIRST]
    assert sorted(rows["shuffled"]) == rows["warm"]
