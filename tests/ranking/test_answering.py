"""A ranker that answers requests says what the ranker says, bit for bit, recorded or not."""

from __future__ import annotations

import pytest
import torch

from recsys.nn.recorded import MET
from recsys.ranking.answering import AnsweringModel
from recsys.ranking.requests import RequestBatch, RequestRanker, SelectConfig
from recsys.testing.toy import Toy
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.rankers import GATED, every_kind

CANDIDATES, OPINIONS = 6, 4


def requests(toy: Toy, seed: int, queries: int = 1) -> RequestBatch:
    generator = torch.Generator().manual_seed(seed)
    rows = CANDIDATES * queries
    features = torch.randn(rows, OPINIONS, generator=generator)
    prior = torch.log_softmax(torch.randn(rows, generator=generator), 0)
    return RequestBatch(toy.requests(CANDIDATES, queries, seed), features, prior, torch.zeros(rows, dtype=torch.bool))


@every_kind
def test_every_ranker_answers_as_recorded_what_it_answers(toy: Toy, kind: str) -> None:
    ranker = toy.ranker(kind, **({} if kind in ("dupn", "logistic") else GATED)).eval()
    answering = AnsweringModel(ranker)
    for seed in range(MET + 3):
        asked = requests(toy, seed)
        with torch.inference_mode():
            expected = ranker(asked.batch)
        found = answering.logits(asked)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[task], expected[task]) for task in expected)
        with torch.no_grad():  # where first layers are products of their own
            torch.testing.assert_close(found, ranker(asked.batch), rtol=1e-6, atol=1e-6)
    assert [one.recordings for one in answering._recorded.values()] == [1]


@pytest.mark.parametrize("queries", [1, 3])
def test_the_listwise_task_is_answered_with_the_others(toy: Toy, queries: int) -> None:
    model = RequestRanker(toy.ranker("mmoe"), OPINIONS, SelectConfig(tower=False)).eval()
    torch.nn.init.normal_(model.output.weight)
    answering = AnsweringModel(model)
    tasks = [*(task.name for task in toy.tasks), "select"]
    for seed in nonempty(range(MET + 2)):
        asked = requests(toy, seed, queries)
        with torch.inference_mode():
            expected = model(asked)
        found = answering.logits(asked)
        assert list(found) == tasks
        assert all(torch.equal(found[task], expected[task]) for task in tasks)
