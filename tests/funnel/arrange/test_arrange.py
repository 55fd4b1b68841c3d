"""One list: what is pinned, capped, shared out, varied and drawn, and what never breaks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy import stats

from recsys.base.arrays import F64, I64, Bool
from recsys.base.errors import ConfigError
from recsys.configs.rules import RulesConfig
from recsys.data.dataset import Dataset
from recsys.data.encoding.attributes import TextColumn
from recsys.funnel.arrange.arrange import Arranged, arrange
from recsys.funnel.arrange.compiled import ListRules
from recsys.tests.support.shop import Shop

NOTHING = np.empty(0, dtype=np.int64)
NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def catalogue(shop: Shop) -> Dataset:
    return shop.dataset()


@pytest.fixture(scope="module")
def vectors(catalogue: Dataset) -> Any:
    return np.random.default_rng(0).normal(size=(catalogue.num_catalogue, 6)).astype(np.float32)


def rules(catalogue: Dataset, vectors: Any, **sections: Any) -> ListRules:
    return ListRules(RulesConfig.model_validate(sections), catalogue, vectors.__getitem__, NOW)


def request(rng: np.random.Generator, size: int, count: int) -> tuple[I64, F64]:
    return rng.choice(size, count, replace=False).astype(np.int64), rng.random(count)


def made(
    rows: I64,
    scores: F64,
    k: int,
    what: ListRules,
    rng: np.random.Generator | None = None,
    *,
    allowed: Bool | None = None,
    seen: I64 = NOTHING,
    history: I64 = NOTHING,
) -> Arranged:
    every = None if what.allowed is None else what.allowed.mask()
    if allowed is not None:
        every = allowed if every is None else every & allowed
    return arrange(rows, scores, k, what, allowed=every, barred=seen, history=history, rng=rng)


def values(catalogue: Dataset, column: str, row: int) -> list[str]:
    found = catalogue.item_columns[column]
    assert isinstance(found, TextColumn)
    return [found.values[code] for code in found.codes[found.ptr[row] : found.ptr[row + 1]]]


@pytest.mark.parametrize("kind", ["mmr", "dpp", "calibrated"])
def test_no_strength_is_the_order_of_the_scores(catalogue: Dataset, vectors: Any, kind: str) -> None:
    rng = np.random.default_rng(1)
    diversity = {"kind": kind, "strength": 0.0, "column": "genre" if kind == "calibrated" else ""}
    what = rules(catalogue, vectors, diversity=diversity)
    assert what.config.idle
    for _ in range(50):
        rows, scores = request(rng, catalogue.num_catalogue, 12)
        rows[3], scores[5] = -1, -np.inf  # pads
        order = [column for column in np.argsort(-scores, kind="stable") if column not in (3, 5)]
        answer = made(rows, scores, 12, what)
        assert answer.columns.tolist() == [*order, -1, -1]
        assert answer.rows.tolist() == [*rows[order], -1, -1]


@pytest.mark.parametrize("kind", ["mmr", "dpp", "calibrated"])
def test_variety_chooses_from_the_pool_and_the_rest_follows(catalogue: Dataset, vectors: Any, kind: str) -> None:
    rng = np.random.default_rng(2)
    diversity = {"kind": kind, "strength": 0.7, "pool": 8, "column": "genre" if kind == "calibrated" else ""}
    what, history = rules(catalogue, vectors, diversity=diversity), np.array([0, 1, 2], dtype=np.int64)
    moved = 0
    for _ in range(30):
        rows, scores = request(rng, catalogue.num_catalogue, 14)
        order = rows[np.argsort(-scores)]
        answer = made(rows, scores, 14, what, history=history).rows
        assert set(answer[:8]) == set(order[:8])
        assert answer[8:].tolist() == order[8:].tolist()
        moved += answer[:8].tolist() != order[:8].tolist()
    assert moved > 20


@pytest.mark.parametrize("lists", [1_000, pytest.param(100_000, marks=pytest.mark.exhaustive)])
def test_caps_and_blocks_and_what_is_barred_hold_in_random_lists(catalogue: Dataset, vectors: Any, lists: int) -> None:
    """With pins, boosts, shares, variety and draws in the way, and under a filter of the request."""
    rng = np.random.default_rng(3)
    size, ids = catalogue.num_catalogue, [str(one) for one in catalogue.item_ids[: catalogue.num_catalogue]]
    cap = {"column": "tags", "most": 2, "within": 3}, {"column": "genre", "most": 4}
    tags, genres = ([values(catalogue, column, row) for row in range(size)] for column in ("tags", "genre"))
    strict, kinds = 0, ("none", "mmr", "dpp", "calibrated")
    for number in range(lists):
        if number % 20 == 0:
            blocked, pinned = rng.choice(size, 2), rng.choice(size, 2, replace=False)
            kind = kinds[int(rng.integers(4))]
            what = rules(
                catalogue,
                vectors,
                cap=cap,
                block=[{"items": [ids[row] for row in blocked]}],
                pin=[{"item": ids[row], "slot": 1 + 3 * place} for place, row in enumerate(pinned[: number // 20 % 3])],
                boost=[{"where": 'genre = "g1"', "factor": float(rng.uniform(0.5, 2))}],
                share=[{"where": "price > 20", "least": 0.2}],
                diversity={"kind": kind, "strength": 0.5, "column": "genre" if kind == "calibrated" else ""},
                explore={"slots": [3], "epsilon": 0.5},
            )
        asked, barred = rng.random(size) < 0.9, rng.choice(size, int(rng.integers(4)), replace=False)
        may = asked & ~np.isin(np.arange(size), [*blocked, *barred])
        rows = rng.permutation(np.flatnonzero(may))[:14]
        answer = made(rows, rng.random(len(rows)), 8, what, rng, allowed=asked, seen=barred, history=barred)
        listed = answer.rows[answer.rows >= 0].tolist()
        assert len(set(listed)) == len(listed)
        assert may[listed].all()
        if "cap" in answer.relaxed or answer.pinned.any():  # a pin stands whatever it breaks
            continue
        strict += 1
        for start in range(len(listed)):
            near = Counter(tag for row in listed[start : start + 3] for tag in tags[row])
            assert max(near.values(), default=0) <= 2
        assert max(Counter(genre for row in listed for genre in genres[row]).values()) <= 4
    assert strict > lists // 10


def test_no_pin_and_no_draw_passes_the_filter_of_a_request(catalogue: Dataset, vectors: Any) -> None:
    asked = np.zeros(catalogue.num_catalogue, dtype=bool)
    asked[[2, 3, 4]] = True
    what = rules(
        catalogue, vectors, pin=[{"item": catalogue.item_ids[0], "slot": 1}], explore={"slots": [2], "epsilon": 1}
    )
    rng, drawn = np.random.default_rng(0), set()
    for _ in range(40):
        answer = made(np.array([2, 3]), np.array([0.9, 0.1]), 3, what, rng, allowed=asked)
        drawn.add(int(answer.rows[1]))
        assert set(answer.rows.tolist()) <= {2, 3, 4, -1}
    assert drawn == {3, 4}


def test_a_cap_takes_the_best_that_it_allows_and_says_when_it_gave_way(catalogue: Dataset, vectors: Any) -> None:
    what = rules(catalogue, vectors, cap=[{"column": "genre", "most": 1}])
    rows = np.arange(catalogue.num_catalogue, dtype=np.int64)
    answer = made(rows, -rows.astype(float) / 10 + 5, 5, what)
    genres = [values(catalogue, "genre", int(row))[0] for row in answer.rows]
    assert sorted(genres[:3]) == ["g1", "g2", "g3"]
    assert answer.rows[0] == 0
    assert (len(answer.rows), answer.relaxed) == (5, ("cap",))


def test_a_share_is_reached_and_costs_no_more_places_than_it_asks(catalogue: Dataset, vectors: Any) -> None:
    rng = np.random.default_rng(4)
    what = rules(catalogue, vectors, share=[{"where": 'genre = "g2"', "least": 0.4}])
    for _ in range(100):
        rows, scores = request(rng, catalogue.num_catalogue, 16)
        answer = made(rows, scores, 5, what)
        plain = rows[np.argsort(-scores)][:5]
        there, had, could = (
            sum(values(catalogue, "genre", int(row)) == ["g2"] for row in some) for some in (answer.rows, plain, rows)
        )
        assert there == max(had, min(2, could))
        assert ("share" in answer.relaxed) == (could < 2)


def test_pins_stand_in_their_places_unless_seen_blocked_or_over(catalogue: Dataset, vectors: Any) -> None:
    pin = [
        {"item": "i4", "slot": 2},
        {"item": "i5", "slot": 3, "until": "2020-01-01"},
        {"item": "i6", "slot": 4},
        {"item": "i7", "slot": 5},
    ]
    what = rules(catalogue, vectors, pin=pin, block=[{"items": ["i6"]}])
    four, seven = catalogue.item_rows["i4"], catalogue.item_rows["i7"]
    rows = np.array([row for row in range(catalogue.num_catalogue) if row != four], dtype=np.int64)
    answer = made(rows, np.linspace(1, 0, len(rows)), 6, what, seen=np.array([seven]))
    assert (answer.rows[1], answer.columns[1], answer.pinned.tolist()) == (four, -1, [False, True, *[False] * 4])
    rest = np.delete(answer.rows, 1)
    assert rest.tolist() == rows[:5].tolist()  # `seen` bars pins and draws; candidates were retrieved without it


def test_a_candidate_with_a_pin_waits_for_its_place(catalogue: Dataset, vectors: Any) -> None:
    rows = np.arange(10, dtype=np.int64)
    what = rules(catalogue, vectors, pin=[{"item": catalogue.item_ids[0], "slot": 3}])
    assert made(rows, np.linspace(1, 0, 10), 5, what).rows.tolist() == [1, 2, 0, 3, 4]


def test_boosts_move_scores_and_blocks_are_no_candidates(catalogue: Dataset, vectors: Any) -> None:
    what = rules(catalogue, vectors, boost=[{"where": 'genre = "g1"', "factor": 100.0}], block=[{"where": "price = 0"}])
    rows = np.arange(catalogue.num_catalogue, dtype=np.int64)
    answer = made(rows, np.linspace(1, 0.5, len(rows)), 4, what)
    assert {values(catalogue, "genre", int(row))[0] for row in answer.rows} == {"g1"}
    negative = made(rows, np.linspace(-0.5, -1, len(rows)), 4, what)
    assert {values(catalogue, "genre", int(row))[0] for row in negative.rows} == {"g1"}
    assert what.allowed is not None
    prices = catalogue.item_columns["price"]
    assert np.array_equal(what.allowed.mask(), np.asarray(prices) != 0)


@pytest.mark.parametrize("draws", [5_000, pytest.param(100_000, marks=pytest.mark.exhaustive)])
def test_draws_have_the_probability_they_say(catalogue: Dataset, vectors: Any, draws: int) -> None:
    explore = {"slots": [2], "epsilon": 0.3, "temperature": 0.7}
    what = rules(catalogue, vectors, explore=explore, cap=[{"column": "genre", "most": 3}], block=[{"items": ["i9"]}])
    rng = np.random.default_rng(5)
    rows, scores = request(rng, catalogue.num_catalogue, 8)
    seen = np.array([catalogue.item_rows["i1"], catalogue.item_rows["i2"]])
    among = catalogue.num_catalogue - 4  # blocked, seen twice, and the first of the list
    said: dict[int, float] = {}
    counts: Counter[int] = Counter()
    for _ in range(draws):
        answer = made(rows, scores, 4, what, rng=rng, seen=seen)
        assert np.isnan(np.delete(answer.propensities, 1)).all()
        counts[int(answer.rows[1])] += 1
        said.setdefault(int(answer.rows[1]), float(answer.propensities[1]))
        assert answer.among.tolist() == [0, among, 0, 0]
    drawn = sorted(said)
    assert sum(said.values()) == pytest.approx(1.0)
    assert not {*seen.tolist(), catalogue.item_rows["i9"], int(rows[scores.argmax()])} & set(drawn)
    test = stats.chisquare([counts[row] for row in drawn], [draws * said[row] for row in drawn])
    assert test.pvalue > 0.001


def test_rules_refuse_what_is_none(catalogue: Dataset, vectors: Any) -> None:
    with pytest.raises(ConfigError, match="no column of the items"):
        rules(catalogue, vectors, cap=[{"column": "colour", "most": 1}])
    with pytest.raises(ConfigError, match="holds texts"):
        rules(catalogue, vectors, freshness={"column": "genre", "days": 7})
    for wrong, message in (
        ({"pin": [{"item": "i1", "slot": 2}], "explore": {"slots": [2]}}, "pinned and explored"),
        ({"block": [{}]}, "give one of them"),
        ({"block": [{"items": ["i1"], "where": "price > 1"}]}, "give one of them"),
        ({"pin": [{"item": "i1", "since": "Christmas"}]}, "is no date"),
        ({"diversity": {"kind": "mmr", "column": "genre"}}, "set both or neither"),
    ):
        with pytest.raises(ValueError, match=message):
            RulesConfig.model_validate(wrong)
