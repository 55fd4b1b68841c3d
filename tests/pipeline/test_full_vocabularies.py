"""Weights over days whose vocabularies are full: kept values keep theirs, freed rows begin as new ones do."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from recsys.data.dataset import Dataset
from recsys.data.vocabulary import FIRST, UNKNOWN
from recsys.nn.embedding import EmbeddingTable
from recsys.pipeline.continuation import Learned, remember, take_up
from recsys.tests.data.encoding.test_eviction import a_log, days_of
from recsys.tests.support.nonempty import nonempty
from recsys.training.optim import OptimConfig, Optimizer

NAMES = ("user_id", "tab", "genre")


def model_of(dataset: Dataset) -> tuple[nn.ModuleDict, Optimizer]:
    model = nn.ModuleDict({"table": EmbeddingTable({n: dataset.encoders.sizes()[n] for n in NAMES}, 3)})
    return model, Optimizer(model, OptimConfig(), 10)


def trained(model: nn.ModuleDict, optimizer: Optimizer) -> None:
    """One step on every row."""
    table = model["table"]
    assert isinstance(table, EmbeddingTable)
    table(torch.arange(len(table.weight))).square().sum().backward()
    optimizer.step()


def test_kept_values_keep_their_weights_and_one_that_comes_back_is_new() -> None:
    days = days_of(a_log(4))
    model, optimizer = model_of(days[0])
    freed = 0
    for yesterday, today in pairwise(days):
        trained(model, optimizer)
        learned = Learned(model, yesterday, remember(optimizer, model))
        model, optimizer = model_of(today)
        report = {entry.vocabulary: entry for entry in take_up(model, optimizer, today, learned)}
        for name in NAMES:
            before, after = (dataset.encoders.vocabularies[name].values for dataset in (yesterday, today))
            old, new = (owner["table"].rows_of(name).detach() for owner in (learned.model, model))  # type: ignore[operator, index]
            kept = [row for row, value in enumerate(after, FIRST) if value in before]
            fresh = [row for row, value in enumerate(after, FIRST) if value not in before]
            assert [after[row - FIRST] for row in kept] == [before[row - FIRST] for row in kept]
            assert torch.equal(new[[UNKNOWN, *kept]], old[[UNKNOWN, *kept]])
            assert torch.equal(new[fresh], new[UNKNOWN].expand(len(fresh), 3))  # which a step has moved
            assert (report[name].kept, report[name].new) == (len(kept), len(fresh))
            assert report[name].dropped == len(before) - len(kept)
            for key, slot in nonempty([p for p in optimizer.state_dict().items() if f"/{name}/" in p[0]]):
                assert torch.equal(slot[kept], learned.state[key][kept])
                assert not slot[fresh].any()
            freed += len(before) - len(kept)
    assert freed > 5
    first, second, third = ([set(day.encoders.vocabularies[name].values) for name in NAMES] for day in days)
    assert any((a & c) - b for a, b, c in zip(first, second, third, strict=True))  # some value has come back
