"""Items come, change and go while a run answers, as a training that goes on would begin with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import recsys
from recsys.base.errors import ConfigError
from recsys.data.build import build_dataset
from recsys.data.reading.readers import read_tables
from recsys.data.vocabulary import FIRST
from recsys.funnel.funnel import Funnel
from recsys.live import catalogue
from recsys.live.answers import Answer
from recsys.live.log import MemoryLog
from recsys.live.log.base import LogRow
from recsys.live.overlay import Overlay
from recsys.live.teller import Teller
from recsys.nn.at_rest import TableDtype
from recsys.nn.embedding import EmbeddingTable, tables_of
from recsys.pipeline.continuation import Learned, take_weights
from recsys.ranking.ensemble import build_members
from recsys.retrieval.index.bitmap import Bitmap
from recsys.retrieval.index.exact import ExactIndex
from recsys.retrieval.index.segments import SegmentedIndex
from recsys.retrieval.towers.ensemble import build_tower_members
from recsys.retrieval.towers.windows import TowerData
from recsys.tests.support.rebuilt import Frames, assert_same_answers
from recsys.tests.support.shop import Shop

NEW: dict[str, Any] = {"genre": "g2", "tags": "a|c", "price": 12.5, "text": "0.1|0.9|-0.2"}
USERS = [f"u{u}" for u in range(12)]


def overlay(rec: recsys.Recommender, indexed: bool = False) -> tuple[Overlay, Teller]:
    """A run over an empty log, and what tells the log."""
    run = rec.trained
    if indexed:
        assert run.retriever is not None
        run = replace(run, retriever=run.retriever.searching(ExactIndex(run.retriever.item_vectors)))
    log = MemoryLog()
    return Overlay(Funnel(run), log), Teller(log, run.dataset)


def test_a_new_item_is_what_a_training_that_goes_on_begins_with(trained: recsys.Recommender, frames: Frames) -> None:
    """Columns, rows of the id in every table, vector: before the first step of `train --from`."""
    _, items, users = frames
    run = trained.trained
    live, teller = overlay(trained)
    teller.items([{"item": "i4", **NEW, "genre": "g1"}, {"item": "n1", **NEW}, {"item": "n2", "genre": "g3"}])
    live.catch_up()

    changed = pd.DataFrame([{"item_id": "n1", **NEW}, {"item_id": "n2", "genre": "g3"}])
    whole = pd.concat([items, changed], ignore_index=True)
    whole.loc[whole["item_id"] == "i4", ["genre", "tags", "price", "text"]] = ["g1", *list(NEW.values())[1:]]
    names, times = ["n1", "n1", "n2", "n2", "i1", "i2"], [341, 342, 343, 344, 350, 360]  # training events give ids rows
    later = pd.DataFrame({"user_id": "u1", "item_id": names, "timestamp": times, "tab": "home", "click": 1, "like": 0})
    later = later.assign(hour=3.0, stars=4)
    split = run.config.data.split.model_copy(update={"valid_from": "345", "test_from": "355"})
    config = run.config.data.model_copy(update={"split": split})
    tables = read_tables(later, users, whole)
    after = build_dataset(tables, config, 1, source=run.dataset)

    section = run.config.retrieval
    assert run.retriever is not None
    assert run.model is not None
    data = TowerData.of(after, section.tower, section.positive)
    towers = build_tower_members(data, section.tower, 9, 1)
    take_weights(towers, after, Learned(run.retriever.model, run.dataset, run.optimizers.get("retrieval", {})))
    ranking = run.config.ranking
    features = len(run.retriever.feature_names)
    ranker, _ = build_members(ranking, after.layout, after.config.tasks, features, 9, 1)
    take_weights(ranker, after, Learned(run.model, run.dataset, run.optimizers.get("ranking", {})))

    there = np.array([after.item_rows[name] for name in ("n1", "n2", "i4", "i5")])
    here = np.array([live.dataset.item_rows[name] for name in ("n1", "n2", "i4", "i5")])
    mine, theirs = live.dataset.items.select(here), after.items.select(there)
    column = after.sides["item"].categorical.index("item_id")
    ids = mine.categorical[:, column].clone(), theirs.categorical[:, column].clone()
    assert (ids[1] >= FIRST).all()
    for block in (mine, theirs):
        block.categorical[:, column] = 0
    mine.map(lambda own, other: torch.testing.assert_close(own, other, rtol=0, atol=0, equal_nan=True), theirs)
    trained_here = live.funnel.trained.model
    assert trained_here is not None
    for model, other in ((live.funnel.retriever.model, towers), (trained_here, ranker)):
        pairs = zip(tables_of(model).values(), tables_of(other).values(), strict=True)
        compared = 0
        for table, after_table in pairs:
            if "item_id" in table.sizes:
                own, expected = table.rows_of("item_id")[ids[0]], after_table.rows_of("item_id")[ids[1]]
                torch.testing.assert_close(own, expected, rtol=0, atol=1e-6)
                compared += 1
        assert compared
    vectors = live.funnel.retriever.item_vectors[here]
    with torch.no_grad():
        chosen = data.items.select(torch.from_numpy(there))
        made = towers.eval().item_vectors(chosen, towers.embed_content(chosen)).numpy()
    np.testing.assert_allclose(vectors, made, atol=1e-6)
    assert np.array_equal(vectors[3], run.retriever.item_vectors[run.dataset.item_rows["i5"]])


def test_an_untold_run_is_as_it_was(trained: recsys.Recommender) -> None:
    """Room for items changes no answer about the others, and the run beside the state nothing at all."""
    before = trained.funnel.recommend(USERS, 8)
    live, teller = overlay(trained)
    teller.items([{"item": "n1", **NEW}])
    teller.deleted(["n1"])
    live.catch_up()
    after = live.funnel.recommend(USERS, 8)
    assert np.array_equal(after.rows, before.rows)
    assert np.array_equal(after.eligible, before.eligible)
    np.testing.assert_allclose(after.scores, before.scores, atol=1e-6)
    assert "n1" not in trained.trained.dataset.item_rows


@pytest.mark.parametrize("seeds", [1, 2])
def test_items_come_to_towers_with_a_linear_part(trained: recsys.Recommender, frames: Frames, seeds: int) -> None:
    """Known items keep their numbers, new ones have none."""
    sections = ["retrieval.linear=8", "retrieval.linear_rank=4", f"ensemble.seeds={seeds}"]
    run = recsys.train(*frames, config=trained.config, settings=sections)
    before = run.funnel.recommend(USERS, 8)
    assert run.trained.retriever is not None
    width = run.trained.retriever.model.width
    live, teller = overlay(run)
    teller.items([{"item": "n1", **NEW}, {"item": "i4", **NEW}])
    live.catch_up()
    retriever = live.funnel.retriever
    assert retriever.item_vectors.shape[1] == retriever.model.width == width
    rows = [live.dataset.item_rows[name] for name in ("n1", "i5", "i4")]
    linear = np.stack(np.split(retriever.item_vectors[rows], seeds, axis=1))[:, :, 8:12]
    assert not linear[:, 0].any()
    assert linear[:, 1].any()
    assert linear[:, 2].any()
    teller.deleted(["n1"])
    untouched, told = overlay(run)
    told.items([{"item": "n2", **NEW}])
    told.deleted(["n2"])
    untouched.catch_up()
    after = untouched.funnel.recommend(USERS, 8)
    assert np.array_equal(after.rows, before.rows)
    np.testing.assert_allclose(after.scores, before.scores, atol=1e-6)


@pytest.mark.parametrize("indexed", [False, True])
def test_puts_and_deletes_and_filters_against_a_rebuilt_index(
    trained: recsys.Recommender, indexed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes that read the log in other pieces, one of which has to make room again and again."""
    rng = np.random.default_rng(4)
    live, teller = overlay(trained, indexed)
    other = Overlay(live.of, live.log)
    monkeypatch.setattr(catalogue, "LEAST", 3)
    alive: dict[str, dict[str, Any]] = {f"i{i}": {} for i in range(Shop.ITEMS)}
    for name, genre in zip(*(trained.trained.dataset.item_ids, _genres(trained)), strict=True):
        alive[name] = {"genre": genre}
    for _ in range(12):
        for _ in range(int(rng.integers(1, 8))):
            name = f"{rng.choice(['i', 'n'])}{rng.integers(0, 20)}"
            if rng.random() < 0.4:
                teller.deleted([name])
                alive.pop(name, None)
            else:
                columns = {"genre": str(rng.choice(["g1", "g2", "g3"])), "price": float(rng.integers(0, 50))}
                shown = bool(rng.random() < 0.8)
                teller.items([{"item": name, **columns, "available": shown}])
                alive[name] = columns
                if not shown:
                    alive.pop(name)
            if rng.random() < 0.3:
                other.catch_up()
        live.catch_up()
        other.catch_up()
        assert {n: live.dataset.item_rows[n] for n in alive} == {n: other.dataset.item_rows[n] for n in alive}
        for genre in ("", "g1"):
            expected = sorted(name for name, columns in alive.items() if genre in ("", columns["genre"]))
            for one in (live, other):
                funnel = one.funnel
                allowed = funnel.select(f'genre = "{genre}"') if genre else None
                named = funnel.unblocked(allowed)
                rows = np.array([one.dataset.item_rows[name] for name in expected], dtype=np.int64)
                retriever = funnel.retriever
                queries = retriever.queries(np.arange(6), 3)
                k = max(len(rows) - 1, 1)
                found = retriever.propose(
                    "two_tower", queries, retriever.histories(np.arange(6), 3), k, named, _none(6)
                )
                scores = queries @ retriever.item_vectors[rows].T
                best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
                assert [set(line) - {-1} for line in found.tolist()] == [set(rows[line].tolist()) for line in best]
                answers = funnel.recommend(["stranger", "u1", "u2"], len(rows) or 1, allowed=allowed)
                names = {one.dataset.item_ids[row] for row in answers.rows[0][answers.rows[0] >= 0]}
                assert names == set(expected)
                assert answers.eligible[0] == len(expected)
                for line, eligible in zip(answers.rows, answers.eligible, strict=True):
                    assert (line >= 0).sum() == eligible
                    assert {one.dataset.item_ids[row] for row in line[line >= 0]} <= set(expected)


def _genres(rec: recsys.Recommender) -> list[str]:
    column = rec.trained.dataset.attributes["genre"]
    return [column.values[code] for code in column.codes]  # type: ignore[union-attr]


def _none(requests: int) -> Any:
    from recsys.base.ragged import Ragged

    return Ragged.empty(requests)


CHANGES = st.one_of(
    st.fixed_dictionaries(
        {
            "what": st.just("put"),
            "item": st.sampled_from(["i1", "i4", "i9", "n1", "n2", "late1"]),
            "columns": st.sampled_from([{**NEW}, {**NEW, "genre": "g1"}, {**NEW, "price": 3.0}, {}]),
        }
    ),
    st.fixed_dictionaries({"what": st.just("delete"), "item": st.sampled_from(["i1", "n1", "nothing"])}),
    st.fixed_dictionaries({"what": st.just("forget"), "user": st.sampled_from(["u0", "new1"])}),
    st.fixed_dictionaries({"what": st.just("user"), "user": st.sampled_from(["u0", "new1"])}),
    st.fixed_dictionaries(
        {
            "what": st.just("event"),
            "user": st.sampled_from(["u0", "u1", "new1"]),
            "item": st.sampled_from(["i1", "i4", "i9", "n1", "n2", "late1"]),
            "click": st.sampled_from([0, 1]),
        }
    ),
)


@given(changes=st.lists(CHANGES, min_size=2, max_size=25))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_taken_in_together_is_taken_in_one_by_one(trained: recsys.Recommender, changes: list[dict[str, Any]]) -> None:
    whole, teller = overlay(trained)
    for place, change in enumerate(changes):
        if change["what"] == "put":
            teller.items([{"item": change["item"], **change["columns"]}])
        elif change["what"] == "delete":
            teller.deleted([change["item"]])
        elif change["what"] == "forget":
            teller.forgotten(change["user"])
        elif change["what"] == "user":
            teller.user(change["user"], {"city": "B"})
        else:
            told = {"labels": {"click": change["click"]}, "columns": {"tab": "home"}, "time": Shop.CUTS[1] + 1 + place}
            teller.events([{"user": change["user"], "item": change["item"], **told}])
    single = Overlay(Funnel(trained.trained), whole.log)
    rows = whole.log.read_after(0, 1000)
    whole.apply(rows)
    for row in rows:
        single.apply([row])
    answers = [one.funnel.recommend([*USERS, "new1"], 5) for one in (whole, single)]
    assert_same_answers(*answers, scores=1e-6)
    assert np.array_equal(whole.items.living, single.items.living)
    assert whole.items.told == single.items.told


def test_a_change_that_nobody_can_tell_from_an_earlier_one_stops_no_events(
    trained: recsys.Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, teller = overlay(trained)
    for place in range(12):
        teller.items([{"item": "i4", **NEW, "price": float(place)}])
        teller.events([{"user": "u1", "item": "i4", "time": Shop.CUTS[1] + 1 + place, "labels": {"click": 1}}])
    taken: list[int] = []
    change = live.items.apply

    def watched(rows: Sequence[LogRow]) -> bool:
        taken.append(len(rows))
        return change(rows)

    monkeypatch.setattr(live.items, "apply", watched)
    live.catch_up()
    assert taken in ([12], [1, 11])  # its genre may be another one than in the run


def test_every_door_sees_it_in_the_same_answer(trained: recsys.Recommender) -> None:
    rec = trained.keep("memory")
    try:
        rec.upsert_items(pd.DataFrame([{"item_id": "n1", **NEW}, {"item_id": "n2", **NEW, "genre": "g1"}]))
        names = set(rec.recommend(["stranger"], 22)["item"])
        assert {"n1", "n2"} <= names
        assert len(names) == 22
        assert set(rec.recommend(["stranger"], 22, where='genre = "g1"')["item"]) >= {"n2"}
        like = rec.similar_items(["n1"], 5, by="vector")
        assert "n2" in set(rec.similar_items(["n1"], 20, by="vector")["similar"])
        assert len(like) == 5
        assert np.isfinite(rec.score(["u1"], ["n1"])["score"]).all()
        answer = rec.ask({"user": "u1", "k": 12, "exclude": ["n2"]})
        assert isinstance(answer, Answer)
        assert "n2" not in {item["item"] for item in answer.items}
        rec.add_events([{"user": "u1", "item": "n1", "time": 345, "labels": {"click": 1}, "tab": "home", "hour": 3}])
        found = rec.recommend(["u1"], 12)
        assert "n1" not in set(found["item"])
        history = rec.funnel.standing(recsys.Subject(user="u1"))[0].retriever.histories(np.array([0]), 3).events
        assert rec.funnel.dataset.item_rows["n1"] in history.items
        rec.delete_items(["n2"])
        assert "n2" not in set(rec.recommend(["stranger"], 21)["item"])
        assert "n2" not in set(rec.similar_items(["n1"], 20)["similar"])
        with pytest.raises(ConfigError, match="exceeds the 22 items"):
            rec.recommend(["u1"], 23)
        with pytest.raises(ConfigError, match='no column "prize"'):
            rec.upsert_items([{"item": "n3", "prize": 1}])
    finally:
        rec.close()
        rec._log = None


def test_hiding_keeps_what_is_known(trained: recsys.Recommender) -> None:
    live, teller = overlay(trained)
    teller.items([{"item": "n1", **NEW}])
    live.catch_up()
    vector = live.funnel.retriever.item_vectors[live.dataset.item_rows["n1"]].copy()
    teller.items([{"item": "n1", "available": False}])
    live.catch_up()
    assert live.dataset.item_rows["n1"] not in live.funnel.recommend(["stranger"], 21).rows
    teller.items([{"item": "n1", "available": True}])
    teller.items([{"item": "n2", **NEW}])
    teller.items([{"item": "n2", "available": True}])  # told in one go
    live.catch_up()
    assert np.array_equal(vector, live.funnel.retriever.item_vectors[live.dataset.item_rows["n2"]])
    assert live.dataset.item_rows["n1"] in live.funnel.recommend(["stranger"], 21).rows
    assert np.array_equal(vector, live.funnel.retriever.item_vectors[live.dataset.item_rows["n1"]])


def test_many_changes_ask_for_a_new_run(
    trained: recsys.Recommender, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(catalogue, "MANY", 3)
    live, teller = overlay(trained)
    teller.items([{"item": f"n{n}", **NEW} for n in range(3)])
    live.catch_up()
    assert not live.items.crowded
    before = live.items
    teller.deleted(["n1", "i1"])
    live.catch_up()
    assert live.items is before
    counts = dict(live.items.counts)
    assert (counts["new"], counts["hidden"], live.items.changed) == (3, 2, 4)
    assert "publish a new run" in caplog.text


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_longer_table_holds_the_same_rows(dtype: TableDtype) -> None:
    torch.manual_seed(1)
    short, long = EmbeddingTable({"a": 5, "b": 4}, 6), EmbeddingTable({"a": 8, "b": 4}, 6)
    short.settle(dtype)
    long.begin_with(short)
    for name in ("a", "b"):
        assert torch.equal(long.rows_of(name)[: short.sizes[name]], short.rows_of(name))
    long.write("a", torch.tensor([6]), short.rows_of("b")[[2]])
    assert torch.allclose(long.rows_of("a")[6], short.rows_of("b")[2], atol=1e-3)


def test_segments_find_what_one_index_finds() -> None:
    rng = np.random.default_rng(2)
    vectors = rng.integers(-2, 3, (40, 4)).astype(np.float32)  # equal scores on purpose
    living = rng.random(40) < 0.8
    main = ExactIndex(vectors[:25].copy())
    segments = SegmentedIndex(main, vectors, living)
    moved = np.array([3, 7, 11])
    segments.upsert(moved, rng.integers(-2, 3, (3, 4)))
    segments.delete([8, 30])
    whole = ExactIndex(vectors)
    queries = rng.integers(-2, 3, (9, 4)).astype(np.float32)
    barred = [rng.integers(0, 40, 5) for _ in range(9)]
    for allowed in (None, rng.random(40) < 0.3, np.arange(40) >= 25, np.zeros(40, dtype=np.bool_)):
        wanted = living if allowed is None else living & allowed
        expected = whole.search(queries, 12, Bitmap.from_mask(wanted), barred)
        found = segments.search(queries, 12, None if allowed is None else Bitmap.from_mask(allowed), barred)
        assert np.array_equal(found.rows, expected.rows)
        assert np.array_equal(found.scores, expected.scores)
