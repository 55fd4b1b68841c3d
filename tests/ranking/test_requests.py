"""Requests: the retriever's own candidates as a listwise task that starts from the retriever's order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys.base.errors import ConfigError
from recsys.data.dataset import Dataset
from recsys.data.split import Part
from recsys.ranking.config import RankingConfig
from recsys.ranking.requests import PADDED, SELECT, RequestRanker, RequestSet, SelectConfig, request_batch
from recsys.ranking.scoring import request_logits, request_loss, select_metrics
from recsys.ranking.step import LoggedRows
from recsys.ranking.train import build_model
from recsys.tests.support.shop import Shop
from recsys.tests.support.taken import taken_at

QUERIES, CANDIDATES, OPINIONS = 10, 7, 5


@pytest.fixture(scope="module")
def dataset(shop: Shop) -> Dataset:
    return shop.dataset("time")


@pytest.fixture(scope="module")
def asked(dataset: Dataset) -> RequestSet:
    """Requests with pads, one of them without its item, one with a single candidate."""
    rng = np.random.default_rng(0)
    rows = np.stack([rng.permutation(dataset.num_catalogue)[:CANDIDATES] for _ in range(QUERIES)])
    rows[3, 4:] = -1
    rows[5, 1:] = -1
    present = rows >= 0
    scores = np.where(present, rng.normal(size=rows.shape), -np.inf)
    prior = (scores - np.log(np.exp(scores).sum(1, keepdims=True))).astype(np.float32)
    features = np.where(present[:, :, None], rng.normal(size=(*rows.shape, OPINIONS)), 0).astype(np.float32)
    target = np.array([0, 2, 6, 1, -1, 0, 3, 3, 5, 4])
    return RequestSet(
        dataset=dataset,
        moment=int(Part.VALID),
        users=np.arange(QUERIES),
        rows=rows,
        features=features,
        prior=prior,
        taken=taken_at(target, CANDIDATES),
        wanted=np.ones(QUERIES, dtype=np.int64),
    )


def target_of(asked: RequestSet) -> np.ndarray:
    """Column of the one item that each request took, -1 of none."""
    return np.where(asked.answered, asked.taken.argmax(1), -1)


def model(dataset: Dataset, *, tower: bool = True, tasks: bool = True, seed: int = 1) -> RequestRanker:
    config = RankingConfig.model_validate(
        {
            "model": {"kind": "mmoe", "num_experts": 2, "expert_hidden": [8], "input": {"embedding_dim": 4}},
            "select": {"tower": tower, "hidden": [8]},
        }
    )
    found, _ = build_model(config, dataset.layout, dataset.config.tasks if tasks else (), OPINIONS, seed)
    assert isinstance(found, RequestRanker)
    return found.eval()


def test_before_training_the_order_is_the_retrievers(dataset: Dataset, asked: RequestSet) -> None:
    scores = request_logits(model(dataset, tower=False), asked)[SELECT]
    present = asked.rows >= 0
    assert np.allclose(scores[present], asked.prior[present], atol=1e-6)
    for row in range(QUERIES):
        assert np.argmax(scores[row]) == np.argmax(np.where(present[row], asked.prior[row], -np.inf))


def test_with_a_tower_the_logit_is_prior_plus_tower_plus_opinions(dataset: Dataset, asked: RequestSet) -> None:
    found = model(dataset)
    torch.nn.init.normal_(found.output.weight)
    requests = asked.batch(torch.arange(QUERIES))
    with torch.no_grad():
        logits = found.ranker(requests.batch)
        others = torch.stack([logits["click"], logits["like"]], dim=1)
        opinion = found.output(found.hidden(torch.cat([requests.features, others], dim=1))).squeeze(1)
        assert torch.allclose(found(requests)[SELECT], requests.prior + logits[SELECT] + opinion, atol=1e-5)


def test_a_pad_never_wins_and_takes_no_probability(dataset: Dataset, asked: RequestSet) -> None:
    found = model(dataset)
    torch.nn.init.normal_(found.output.weight, std=50.0)
    with torch.no_grad():
        scores = found(asked.batch(torch.arange(QUERIES)))[SELECT].view(QUERIES, CANDIDATES)
    pads = torch.from_numpy(asked.rows < 0)
    assert (scores[pads] < PADDED / 2).all()
    assert torch.softmax(scores, dim=1)[pads].sum() == 0
    rubbish = replace(asked, features=np.where(asked.rows[:, :, None] < 0, 99.0, asked.features).astype(np.float32))
    with torch.no_grad():
        again = found(rubbish.batch(torch.arange(QUERIES)))[SELECT].view(QUERIES, CANDIDATES)
    assert torch.equal(again[~pads], scores[~pads])


def test_the_loss_is_the_cross_entropy_of_the_item_taken(dataset: Dataset, asked: RequestSet) -> None:
    found = model(dataset)
    with torch.no_grad():
        scores = found(asked.batch(torch.arange(QUERIES)))[SELECT].view(QUERIES, CANDIDATES).double()
        loss = found.loss(asked.batch(torch.arange(QUERIES)))
    answered = [q for q in range(QUERIES) if target_of(asked)[q] >= 0]
    wanted = [-torch.log_softmax(scores[q], 0)[target_of(asked)[q]] for q in answered]
    assert len(wanted) == QUERIES - 1
    assert loss.item() == pytest.approx(torch.stack(wanted).mean().item(), abs=1e-5)
    missed = found.loss(asked.take(np.array([4])).batch(torch.arange(1)))
    assert missed.item() == 0.0


def test_requests_chosen_in_any_order_are_the_same_requests(dataset: Dataset, asked: RequestSet) -> None:
    found = model(dataset)
    chosen = torch.tensor([7, 0, 3])
    with torch.no_grad():
        whole = found(asked.batch(torch.arange(QUERIES)))[SELECT].view(QUERIES, CANDIDATES)
        some = found(asked.batch(chosen))[SELECT].view(3, CANDIDATES)
        taken = found(asked.take(chosen.numpy()).batch(torch.arange(3)))[SELECT].view(3, CANDIDATES)
    assert torch.allclose(some, whole[chosen], atol=1e-5)
    assert torch.equal(taken, some)
    batch = asked.batch(chosen)
    assert torch.nonzero(batch.taken).flatten().tolist() == [3, CANDIDATES + 0, 2 * CANDIDATES + 1]
    items = dataset.layout.item.categorical.index("item_id")
    rows = np.maximum(asked.rows[chosen.numpy()], 0).ravel()
    assert torch.equal(batch.batch.item.categorical[:, items], dataset.items.whole().categorical[rows, 0])


def test_opinions_of_the_other_tasks_are_not_trained_through_select(dataset: Dataset, asked: RequestSet) -> None:
    """`select` reads the other tasks' logits, and must not move their towers to please itself."""
    found = model(dataset)
    torch.nn.init.normal_(found.output.weight)
    found.loss(asked.batch(torch.arange(QUERIES))).backward()  # type: ignore[no-untyped-call]
    for task in ("click", "like"):
        gradients = [p.grad for p in found.ranker.towers[task].parameters()]
        assert all(g is None or not g.any() for g in gradients)
    assert any(p.grad is not None and p.grad.any() for p in found.ranker.towers[SELECT].parameters())


def test_serving_and_training_make_the_same_rows(dataset: Dataset, asked: RequestSet) -> None:
    served = request_batch(dataset, int(Part.VALID), asked.users, asked.rows, asked.features, asked.prior)
    trained = asked.batch(torch.arange(QUERIES))
    assert torch.equal(served.prior, trained.prior)
    assert torch.equal(served.features, trained.features)
    assert torch.equal(served.batch.item.categorical, trained.batch.item.categorical)
    assert not served.taken.any()
    assert served.taken.shape == served.prior.shape


def test_logged_rows_have_no_label_for_select(dataset: Dataset) -> None:
    rows = dataset.rows("train")[:20]
    batch = LoggedRows(dataset, with_select=True).batch(rows)
    plain = LoggedRows(dataset, with_select=False).batch(rows)
    assert batch.labels.shape == batch.mask.shape == (20, 3)
    assert not batch.mask[:, 2].any()
    assert torch.equal(batch.labels[:, :2], plain.labels)
    assert torch.equal(batch.mask[:, :2], plain.mask)


def test_ndcg_of_select_counts_a_missed_item_as_not_found(dataset: Dataset, asked: RequestSet) -> None:
    found = model(dataset)
    scores = request_logits(found, asked, block=3)[SELECT]
    assert np.allclose(scores, request_logits(found, asked)[SELECT], atol=1e-5)
    gains, losses = [], []
    for row, target in zip(scores, target_of(asked), strict=True):
        rank = 1 + (row > row[target]).sum()
        gains.append(1 / np.log2(rank + 1) if target >= 0 else 0.0)
        losses += [np.log(np.exp(row - row[target]).sum())] if target >= 0 else []
    assert 0 < len(losses) < len(gains)
    metrics = select_metrics(found, asked)
    assert metrics["select_ndcg@10"] == pytest.approx(np.mean(gains), abs=1e-6)
    assert metrics["select_loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert request_loss(scores, np.zeros_like(asked.taken)) == 0.0


def test_without_tasks_and_tower_only_the_retrievers_opinions_are_read(dataset: Dataset, asked: RequestSet) -> None:
    found = model(dataset, tower=False, tasks=False)
    before = request_logits(found, asked)
    assert list(before) == [SELECT]
    with torch.no_grad():
        for parameter in found.ranker.parameters():
            parameter.add_(1.0)
    assert np.array_equal(request_logits(found, asked)[SELECT], before[SELECT])


def test_opinions_are_scaled_by_what_the_training_requests_show(dataset: Dataset, asked: RequestSet) -> None:
    """In whatever unit a retriever scores, the head sees the same."""
    stretched = replace(asked, features=asked.features * 50 + 7)
    first, second = model(dataset), model(dataset)
    second.load_state_dict(first.state_dict())
    for one, requests in ((first, asked), (second, stretched)):
        with torch.no_grad():
            one.output.weight.fill_(0.1)
        one.fit_scale(requests)
    mine = request_logits(first, asked)[SELECT]
    assert np.allclose(mine, request_logits(second, stretched)[SELECT], atol=1e-3)
    assert not np.allclose(mine, request_logits(second, asked)[SELECT], atol=1e-3)


def test_nothing_to_rank_by_is_an_error(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="declare a task, or enable"):
        build_model(RankingConfig(), dataset.layout, (), 0, 0)


def test_the_head_has_its_own_switches() -> None:
    assert SelectConfig(tower=False).tower is False
    with pytest.raises(ValueError, match="holdout"):
        SelectConfig(holdout=0.0)
