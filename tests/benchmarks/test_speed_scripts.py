"""What the speed scripts compare must be the same thing on both sides, and their made-up data what they say it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recsys.benchmarks.speed import user_side_once
from recsys.benchmarks.speed.dupn_step import DUPN, Plain, Sequences, answer
from recsys.benchmarks.speed.index_vectors import KINDS, make_vectors, upsampled
from recsys.benchmarks.speed.two_tower_throughput import HISTORY, NEGATIVES, Ours, Theirs
from recsys.data.batch import Batch
from recsys.data.split import Part
from recsys.retrieval.towers.train import RetrievalConfig
from recsys.retrieval.towers.two_tower import TowerHistory, TwoTowerConfig
from recsys.retrieval.towers.windows import TowerData
from recsys.tests.support.shop import Shop
from recsys.training.runtime import Runtime


def test_drawn_items_have_mean_and_covariance_of_the_trained_ones() -> None:
    rng = np.random.default_rng(0)
    items = (rng.standard_normal((400, 5)) @ rng.standard_normal((5, 5)) + 3.0).astype(np.float32)
    many = upsampled(items, 60_000, rng)
    assert np.array_equal(many[:400], items)
    np.testing.assert_allclose(many.mean(0), items.mean(0), atol=0.1)
    np.testing.assert_allclose(np.cov(many.T), np.cov(items.T), atol=0.03 * np.abs(np.cov(items.T)).max())
    assert upsampled(items, 10, rng).shape == (10, 5)


@pytest.mark.parametrize("kind", ["clusters", "smooth"])
def test_drawn_vectors_are_of_unit_length_and_differ_in_clumping(kind: str) -> None:
    items, queries = make_vectors(kind, 5_000, 16, 50, np.random.default_rng(1))
    assert items.shape == (5_000, 16)
    assert queries.shape == (50, 16)
    np.testing.assert_allclose(np.linalg.norm(items, axis=1), 1.0, atol=1e-5)
    best = np.sort(queries @ items.T, axis=1)
    gap = (best[:, -100] - best[:, -500]).mean()  # a cluster ends after about 250 items
    assert bool(gap > 0.3) is (kind == "clusters")
    with pytest.raises(ValueError, match="clusters"):
        make_vectors("other", 10, 4, 2, np.random.default_rng(1))
    assert set(KINDS) == {"clusters", "smooth", "trained"}


class Biased(nn.Module):
    """A ranker that forgets a column when queries are shared."""

    kind = "biased"

    def __init__(self, gap: float) -> None:
        super().__init__()
        self.gap = gap

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {"click": torch.zeros(batch.rows) + (0.0 if batch.owner is None else self.gap)}


def test_ways_that_differ_are_never_timed() -> None:
    layout = user_side_once.Shape(user=2, video=2).layout()
    asked = user_side_once.request(layout, 6, 0)
    assert asked.query.rows == 1
    assert user_side_once.repeat(asked).query.rows == asked.item.rows == 6
    assert user_side_once.measure(Biased(0.0), asked, 2)["largest_difference"] == 0.0  # type: ignore[arg-type]
    for gap in (1e-3, float("nan")):
        with pytest.raises(SystemExit, match="differ"):
            user_side_once.measure(Biased(gap), asked, 2)  # type: ignore[arg-type]


def test_the_layout_is_that_of_the_configuration() -> None:
    plain, counted = (shape.layout() for shape in (user_side_once.Shape(), user_side_once.Shape.with_counts()))
    assert (len(plain.query.categorical), len(plain.item.categorical)) == (34, 11)
    assert (len(counted.query.categorical), len(counted.item.categorical)) == (46, 24)


@pytest.fixture(scope="module")
def towers(shop: Shop) -> TowerData:
    config = TwoTowerConfig(dim=4, user_features=("user_id",), item_features=("item_id",), event_features=())
    return TowerData.of(shop.dataset("leave_last"), config, "")


def test_both_sides_learn_from_the_same_events(towers: TowerData) -> None:
    history, stops = towers.history, towers.ends(Part.VALID)
    config = RetrievalConfig(
        tower=TwoTowerConfig(
            dim=4,
            user_features=("user_id",),
            item_features=("item_id",),
            event_features=(),
            history=TowerHistory(encoder="mean", window=HISTORY),
        ),
        loss="bce",
    )
    ours = Ours(towers, config, Runtime(1), 1, 2)
    done = ours.epoch()
    lengths = stops - history.ptr[:-1]
    assert done.positives == lengths.sum()  # the first event of a user as well: a new user is a case of its own
    assert done.compared == 2 * done.positives

    theirs = object.__new__(Theirs)
    theirs.data = towers
    rows = theirs._rows(NEGATIVES, 1)
    assert rows["label"].sum() == np.maximum(lengths - 1, 0).sum()  # it drops a user's first event
    assert len(rows["label"]) == (1 + NEGATIVES) * rows["label"].sum()
    positive = np.flatnonzero(rows["label"])
    place = 0
    for user, (start, stop) in enumerate(zip(history.ptr[:-1], stops, strict=True)):
        for at in range(start + 1, stop):
            row = positive[place]
            assert rows["user_id"][row] == user + 1
            assert rows["item_id"][row] == history.items[at] + 1
            known = history.items[max(start, at - HISTORY) : at] + 1
            assert rows["hist_item"][row][-len(known) :].tolist() == known.tolist()
            assert not rows["hist_item"][row][: -len(known)].any()
            assert (rows["hist_item"][row] == rows["hist_item"][row + 1]).all()
            place += 1
    assert place == len(positive)


def test_dupn_and_the_plain_lstm_do_the_same_kind_of_work() -> None:
    data = Sequences(3, 7, 5, 4, 6, 1)
    with torch.no_grad():
        for model in (Plain(5, 4, 6, False), DUPN(5, 4, 6, False)):
            assert model(data, True).shape == (3, 7, 6)
            last = answer(model, data)()
            assert isinstance(last, Tensor)
            cut = replace_events(data, 99.0)
            torch.testing.assert_close(answer(model, cut)(), last)  # what follows a sequence's end is never read


def replace_events(data: Sequences, value: float) -> Sequences:
    """The same sequences with other padding."""
    other = Sequences(3, 7, 5, 4, 6, 1)
    for row, length in enumerate(data.lengths.tolist()):
        other.events[row, length:] = value
    return other
