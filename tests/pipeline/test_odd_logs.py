"""Logs in which nothing new is left to predict: a sentence says why and what to set."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import recsys
from recsys.base.errors import DataError, RecsysError

ROWS = 120
REPEATS = r"every positive event of the test part is of an item that its user had before.*retrieval\.seen = \"none\""
QUICK = ("retrieval.fit.epochs=1", "ranking.fit.epochs=1", "evaluation.draws=10")


def _log(users: np.ndarray, items: np.ndarray) -> pd.DataFrame:
    clicks = np.random.default_rng(1).integers(0, 2, ROWS)
    times = 1_700_000_000 + np.arange(ROWS) * 3600
    return pd.DataFrame({"user_id": users, "item_id": items, "timestamp": times, "click": clicks})


def _of_many(items: np.ndarray) -> pd.DataFrame:
    return _log(np.random.default_rng(0).integers(0, 12, ROWS), items)


@pytest.mark.parametrize(
    "log",
    [
        pytest.param(_log(np.tile([1, 2, 3, 4], 30), np.tile([10, 20, 30, 40], 30)), id="the same again"),
        pytest.param(_of_many(np.where(np.arange(ROWS) % 60, 7, 8)), id="nearly all of one item"),
    ],
)
def test_repeats_alone_are_told_and_may_be_judged_when_they_count(log: pd.DataFrame) -> None:
    rec = recsys.train(log, settings=QUICK)
    with pytest.raises(DataError, match=REPEATS):
        rec.evaluate()
    free = recsys.train(log, settings=(*QUICK, 'retrieval.seen="none"'))
    assert free.evaluate()["funnel"]["users"] > 0
    assert len(free.recommend(log["user_id"].iloc[0], k=1)) == 1


def test_one_user_alone_is_no_log_of_people() -> None:
    with pytest.raises(RecsysError, match="every event is of one user"):
        recsys.train(_log(np.ones(ROWS, dtype=int), np.arange(ROWS) % 15), settings=QUICK)


def test_users_of_one_event_each_are_measured() -> None:
    rec = recsys.train(_log(np.arange(ROWS), np.random.default_rng(2).integers(0, 15, ROWS)), settings=QUICK)
    assert rec.evaluate()["funnel"]["users"] > 0
