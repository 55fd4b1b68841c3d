"""The linear part of the towers: the formula, the training part alone, chosen by validation, kept with the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import recsys
from recsys.artifacts.folder import open_run
from recsys.base.errors import ConfigError
from recsys.data.split import Part
from recsys.data.vocabulary import UNKNOWN
from recsys.funnel.folder import load_run
from recsys.pipeline.continuation import SourceRun
from recsys.pipeline.start import Start
from recsys.retrieval.towers.adjustment import LINEAR, Adjustment, adjust, check_adjustment, chosen_adjustment
from recsys.retrieval.towers.answering import UserPasses
from recsys.retrieval.towers.ensemble import as_one
from recsys.retrieval.towers.linear import Factors
from recsys.retrieval.towers.puresvd import EXPONENT, svd_factors
from recsys.retrieval.towers.train import (
    RetrievalConfig,
    build_towers,
    build_two_tower,
    item_contents,
    item_vectors,
    query_vectors,
)
from recsys.retrieval.towers.two_tower import TwoTower
from recsys.retrieval.towers.windows import TowerData
from recsys.tests.support.tiny import TINY, TinyRun

RANK = 6
CONFIG = RetrievalConfig.model_validate({"linear": "auto", "linear_rank": RANK, "tower": {"dim": 8}})


@pytest.fixture(scope="module")
def data(tiny_run: TinyRun) -> TowerData:
    return TowerData.of(load_run(open_run(tiny_run.folder)).dataset, CONFIG.tower, "")


@pytest.fixture(scope="module")
def linear_run(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run once more, with a linear part."""
    folder = tmp_path_factory.mktemp("linear") / "run"
    settings = [*TINY, "retrieval.linear=8", f"retrieval.linear_rank={RANK}"]
    recsys.train(config=tiny_run.config_file, settings=settings, run=folder)
    return folder


def codes(data: TowerData) -> np.ndarray:
    return data.items.categorical[:, data.layout.item.categorical.index(data.layout.item_id)].numpy()


def answers(model: TwoTower, data: TowerData, moment: int = Part.VALID) -> np.ndarray:
    users = np.arange(len(data.history.ptr) - 1)
    return query_vectors(model, data, users, data.ends(moment)) @ item_vectors(model, data).T


def by_hand(data: TowerData, rank: int) -> np.ndarray:
    """What the formula says of every user and item, from a dense decomposition: float64 [U, N]."""
    history, ends, rows = data.history, data.ends(Part.VALID), codes(data)
    matrix = np.zeros((len(ends), data.num_items))
    for user, (begin, end) in enumerate(zip(history.ptr[:-1], ends, strict=True)):
        matrix[user, history.items[begin:end]] = 1.0
    matrix[:, rows <= UNKNOWN] = 0.0
    scale = np.maximum(matrix.sum(axis=0), 1.0) ** EXPONENT
    right = np.linalg.svd(matrix / scale, full_matrices=False)[2][:rank].T
    out = np.zeros_like(matrix)
    for user, (begin, end) in enumerate(zip(history.ptr[:-1], ends, strict=True)):
        events = history.items[max(begin, end - data.max_length) : end]
        if len(events):
            summed = (right[events] / scale[events, None]).sum(axis=0) / np.sqrt(len(events))
            out[user] = (right * scale[:, None]) @ summed
    return out


@pytest.mark.parametrize(("members", "interests"), [(1, 1), (1, 2), (2, 1)])
def test_scores_grow_by_what_the_formula_says(data: TowerData, members: int, interests: int) -> None:
    tower = CONFIG.tower.model_copy(update={"interests": interests})
    model = as_one([build_two_tower(data, tower, seed) for seed in range(members)]).eval()
    before = answers(model, data)
    adjust(model, data, Adjustment(linear=3.0), RANK)
    grown = answers(model, data) - before
    expected = 3.0 * by_hand(data, RANK)
    assert np.abs(expected).max() > 0.1
    wanted = expected if interests == 1 else np.broadcast_to(expected[:, None], grown.shape)
    np.testing.assert_allclose(grown, wanted, atol=1e-4)
    assert model.width == members * (8 + RANK + 1)


def test_factors_hear_of_the_training_part_alone(data: TowerData) -> None:
    factors = svd_factors(data, RANK)
    later = data.history.parts >= Part.VALID
    assert later.any()
    items = data.history.items.copy()
    items[later] = (items[later] + 7) % data.num_items
    told = svd_factors(replace(data, history=replace(data.history, items=items)), RANK)
    assert factors is not None
    assert told is not None
    np.testing.assert_array_equal(factors.reads, told.reads)
    items[~later] = (items[~later] + 7) % data.num_items
    other = svd_factors(replace(data, history=replace(data.history, items=items)), RANK)
    assert other is not None
    assert not np.array_equal(factors.reads, other.reads)


def test_no_direction_is_made_up(data: TowerData) -> None:
    """Five groups that never mix have five directions, whatever rank is asked for; and twice the same ones."""
    users, items = np.arange(60), np.arange(10)
    ptr = np.arange(61) * 2
    met = np.concatenate([(user % 5) * 2 + np.arange(2) for user in users])
    none = np.zeros(120, dtype=np.int8)
    history = replace(data.history, ptr=ptr, items=met, times=np.zeros(120), parts=none, rows=np.arange(120))
    layout = replace(data.layout, sizes={**data.layout.sizes, data.layout.item_id: 2 + len(items)})
    block = data.items.select(torch.from_numpy(items))
    columns = block.categorical.clone()
    columns[:, layout.item.categorical.index(layout.item_id)] = torch.from_numpy(items + 2)
    grouped = replace(data, history=history, layout=layout, items=replace(block, categorical=columns))
    found, again = svd_factors(grouped, 9), svd_factors(grouped, 9)
    assert found is not None
    assert again is not None
    assert found.reads.shape[1] == 5
    np.testing.assert_allclose(found.reads @ found.writes.T, again.reads @ again.writes.T, atol=1e-6)
    said = (found.reads @ found.writes.T)[2:, 2:]
    np.testing.assert_allclose(said, np.kron(np.eye(5), np.full((2, 2), 0.5)), atol=1e-6)


def test_who_is_new_adds_nothing(data: TowerData) -> None:
    model = build_two_tower(data, CONFIG.tower, 1).eval()
    adjust(model, data, Adjustment(linear=3.0), RANK)
    users = np.arange(5)
    vectors = query_vectors(model, data, users, data.history.ptr[users])
    assert not vectors[:, 8 : 8 + RANK].any()
    block = data.items.select(torch.arange(2))
    block = replace(block, categorical=torch.full_like(block.categorical, UNKNOWN))
    content, item = model.embed_items(block)
    assert not content[:, 8:].any()
    assert not item[:, 8 : 8 + RANK].any()


def test_what_validation_says_is_taken(data: TowerData, monkeypatch: pytest.MonkeyPatch) -> None:
    blind = build_two_tower(data, CONFIG.tower, 1)  # knows nothing, so that a linear model can only help it
    chosen = chosen_adjustment(blind, data, CONFIG)
    assert chosen.linear in LINEAR[1:]
    assert chosen.tau == 0.0
    assert blind.linear is None  # what was tried is taken away again
    monkeypatch.setattr("recsys.retrieval.towers.adjustment.SURE", 1e6)
    assert chosen_adjustment(blind, data, CONFIG) == Adjustment()
    monkeypatch.undo()
    noise = np.random.default_rng(3).standard_normal((2, data.layout.sizes[data.layout.item_id], RANK))
    useless = Factors(*noise.astype(np.float32))
    monkeypatch.setattr("recsys.retrieval.towers.adjustment.svd_factors", lambda *_: useless)
    adjust(blind, data, Adjustment(40.0))  # knows what is popular
    assert chosen_adjustment(blind, data, CONFIG).linear == 0.0


def test_a_number_is_taken_as_it_is(data: TowerData) -> None:
    model = build_two_tower(data, CONFIG.tower, 1)
    fixed = CONFIG.model_copy(update={"linear": 4.0})
    assert chosen_adjustment(model, data, fixed).linear == 4.0
    directions = RetrievalConfig.model_validate({"linear": 4.0, "tower": {"similarity": "cosine"}})
    with pytest.raises(ConfigError, match="directions alone"):
        check_adjustment(directions)


def test_a_run_keeps_its_linear_part(linear_run: Path) -> None:
    run = load_run(open_run(linear_run))
    retriever = run.retriever
    assert retriever is not None
    model = retriever.model
    assert model.linear is not None
    assert model.linear.rank == RANK
    assert retriever.item_vectors.shape[1] == model.width
    np.testing.assert_allclose(item_vectors(model, retriever.data), retriever.item_vectors, atol=1e-6)
    made = item_contents(model, retriever.data, retriever.item_vectors)
    assert torch.allclose(made, retriever.content, atol=1e-6)
    known = np.flatnonzero(np.diff(retriever.data.history.ptr))[:3]
    passes = UserPasses(model, retriever.data.max_length)
    for user in known:
        ends = retriever.data.ends(Part.TEST)[[user]]
        alone = query_vectors(model, retriever.data, np.array([user]), ends, retriever.content, passes)
        together = query_vectors(model, retriever.data, np.array([user]), ends)
        np.testing.assert_allclose(alone, together, atol=1e-5)
    assert retriever.likeness().shape[1] == model.config.dim


def test_a_training_that_goes_on_fits_its_own(linear_run: Path) -> None:
    source = SourceRun.open(linear_run)
    learned, dataset = source.towers(), source.trained.dataset
    assert learned is not None
    config = source.trained.config
    training = build_towers(dataset, config.retrieval, 77)
    Start.of(source, config, "all").towers(training, dataset)
    assert training.model.linear is None
    assert isinstance(learned.model, TwoTower)
    assert torch.equal(training.model.table.weight, learned.model.table.weight)
