"""The parity that matters: a run with live events answers as the same run over a data set rebuilt with them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import recsys
from recsys.data.dataset import Dataset
from recsys.funnel.funnel import Funnel
from recsys.funnel.run import TrainedRun, assemble_retriever
from recsys.live.log import MemoryLog
from recsys.live.overlay import Overlay
from recsys.nn.sequence import ENCODERS, SequenceConfig
from recsys.ranking.ensemble import build_members
from recsys.ranking.ranker import ranker_class
from recsys.retrieval.seen import SeenConfig
from recsys.retrieval.towers.ensemble import build_tower_members
from recsys.retrieval.towers.windows import TowerData
from recsys.tests.support.rankers import every_kind
from recsys.tests.support.rebuilt import Frames, assert_same_answers, assert_same_state, over, rebuilt_dataset, tell
from recsys.tests.support.shop import Shop

USERS = [*(f"u{u}" for u in range(24)), "new1", "new2", "traits", "nobody"]
LATEST = 340


EVENTS = st.lists(
    st.fixed_dictionaries(
        {
            "user": st.sampled_from(["u0", "u1", "u2", "u3", "new1", "new2", "traits"]),
            "item": st.sampled_from([*(f"i{i}" for i in range(20)), "late1", "late2"]),
            "time": st.integers(Shop.CUTS[1], LATEST + 20),
            "click": st.sampled_from([0, 1, None]),
            "like": st.sampled_from([0, 1, None]),
            "tab": st.sampled_from(["home", "search", "unheard", None]),
            "hour": st.sampled_from([0, 5.5, 23, None]),
            "stars": st.sampled_from([1, 5, None]),
        },
        optional={"token": st.sampled_from(["a", "b"]), "id": st.sampled_from(["x", "y", "z"])},
    ),
    min_size=1,
    max_size=30,
)


@given(data=st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_live_is_rebuilt(trained: recsys.Recommender, frames: Frames, data: st.DataObject) -> None:
    log, run = MemoryLog(), trained.trained
    live = Overlay(trained.funnel, log)
    events: list[dict[str, Any]] = data.draw(EVENTS)
    told = 0
    while told < len(events):
        size = data.draw(st.integers(1, len(events) - told))
        tell(log, run.config, events[told : told + size])
        told += size
        if data.draw(st.booleans()):
            live.catch_up()
    if data.draw(st.booleans()):
        live = Overlay(trained.funnel, log)
    live.catch_up()
    rebuilt = over(run, rebuilt_dataset(run, frames, log))
    assert_same_state(live, rebuilt, USERS)
    assert_same_answers(live.funnel.recommend(USERS, 5), rebuilt.recommend(USERS, 5))
    assert len(np.unique(live.funnel.recommend(USERS, 5).rungs)) > 1


def _stream(count: int, seed: int) -> list[dict[str, Any]]:
    """Events of every kind: late ones, equal times, labels that follow an exposure, new users and items, repeats."""
    rng = np.random.default_rng(seed)
    found: list[dict[str, Any]] = []
    for number in range(count):
        event = {
            "user": str(rng.choice([*USERS[:8], "new1", "new2", "traits"])),
            "item": f"i{rng.integers(0, 22)}",
            "time": int(rng.integers(Shop.CUTS[1], LATEST)),
            "click": int(rng.integers(0, 2)),
            "like": [0, 1, None][rng.integers(0, 3)],
            "tab": str(rng.choice(["home", "search", "unheard"])),
            "hour": float(rng.integers(0, 24)),
            "stars": int(rng.integers(1, 6)),
        }
        if number % 4 == 0:
            found += [{**event, "token": str(number), "click": 0, "like": None}, {**event, "token": str(number)}]
        else:
            found.append(event)
    return [*found, found[-1]]


@pytest.fixture(scope="module")
def log(trained: recsys.Recommender) -> MemoryLog:
    found = MemoryLog()
    tell(found, trained.config, _stream(60, 7))
    return found


@pytest.fixture(scope="module")
def rebuilt(trained: recsys.Recommender, frames: Frames, log: MemoryLog) -> Dataset:
    return rebuilt_dataset(trained.trained, frames, log)


def _compared(run: TrainedRun, rebuilt: Dataset, log: MemoryLog) -> None:
    live = Overlay(Funnel(run), log)
    before = live.funnel.recommend(USERS, 5)
    live.catch_up()
    assert_same_answers(live.funnel.recommend(USERS, 5), over(run, rebuilt).recommend(USERS, 5))
    assert not np.array_equal(before.scores, live.funnel.recommend(USERS, 5).scores)


@every_kind
def test_with_every_ranker(trained: recsys.Recommender, rebuilt: Dataset, log: MemoryLog, kind: str) -> None:
    """Weights as they begin: what reaches a ranker is compared, whatever it makes of it."""
    run = trained.trained
    assert run.retriever is not None
    named = {"conversion": "like", "product": ""} if "conversion" in ranker_class(kind).Config.model_fields else {}
    ranking = type(run.config.ranking).model_validate({"model": {"kind": kind, **named}})
    features = len(run.retriever.feature_names)
    model, ranker = build_members(ranking, run.dataset.layout, run.dataset.config.tasks, features, 5, 1)
    config = run.config.model_copy(update={"ranking": ranking})
    _compared(replace(run, config=config, model=model, ranker=ranker, calibrators={}), rebuilt, log)


@pytest.mark.parametrize("encoder", sorted(ENCODERS))
def test_with_every_history_encoder(
    trained: recsys.Recommender, rebuilt: Dataset, log: MemoryLog, encoder: str
) -> None:
    run = trained.trained
    assert run.retriever is not None
    tower = run.config.retrieval.tower.model_copy(update={"history": SequenceConfig(encoder=encoder, max_length=4)})
    section = run.config.retrieval.model_copy(update={"tower": tower})
    config = run.config.model_copy(update={"retrieval": section})
    data = TowerData.of(run.dataset, tower, section.positive, section.seen)
    model = build_tower_members(data, tower, 5, 1)
    retriever = assemble_retriever(config, model, data, run.retriever.companions)
    _compared(replace(run, config=config, retriever=retriever), rebuilt, log)


@pytest.mark.parametrize(
    "seen", [{"policy": "shown"}, {"policy": "none"}, {"policy": "shown", "window_days": 0.0003}, {"tasks": ("like",)}]
)
def test_with_every_policy_of_what_is_seen(
    trained: recsys.Recommender, rebuilt: Dataset, log: MemoryLog, seen: dict[str, Any]
) -> None:
    run = trained.trained
    assert run.retriever is not None
    section = run.config.retrieval.model_copy(update={"seen": SeenConfig(**seen)})
    config = run.config.model_copy(update={"retrieval": section})
    data = TowerData.of(run.dataset, section.tower, section.positive, section.seen)
    retriever = assemble_retriever(config, run.retriever.model, data, run.retriever.companions)
    run = replace(run, config=config, retriever=retriever)
    live = Overlay(Funnel(run), log)
    live.catch_up()
    assert_same_state(live, over(run, rebuilt), USERS)
    _compared(run, rebuilt, log)
