"""A run with live events, and the same run over a data set that was rebuilt with these events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from recsys.configs.run import RunConfig
from recsys.data.build import build_dataset
from recsys.data.dataset import Dataset
from recsys.data.encoding.subjects import subject_of
from recsys.data.encoding.told_events import EventReader
from recsys.data.reading.readers import read_tables
from recsys.funnel.funnel import Funnel
from recsys.funnel.recommendations import Recommendations
from recsys.funnel.run import TrainedRun, assemble_retriever
from recsys.live.export import folded_events, read_all
from recsys.live.log import StateLog
from recsys.live.overlay import Overlay
from recsys.live.told import event_rows
from recsys.retrieval.towers.windows import TowerData
from recsys.tests.support.nonempty import nonempty

Told = Mapping[str, Any]
Frames = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]


def tell(log: StateLog, config: RunConfig, events: Sequence[Told]) -> None:
    """Hand events in, as a service does."""
    log.append(event_rows(EventReader(config.data), events).rows)


def rebuilt_dataset(trained: TrainedRun, frames: Frames, log: StateLog) -> Dataset:
    """The tables of a run with the log's events behind theirs, encoded anew: nothing of it is live."""
    config = trained.config.data
    told = folded_events(list(read_all(log)), config)
    later = {name: told[name].to_pylist() for name in told.column_names}
    later[config.time] = [str(int(moment.timestamp())) for moment in later[config.time]]
    events = pd.concat([_texts(frames[0]), pd.DataFrame(later)], ignore_index=True)
    events = events.astype(object).where(events.notna(), None)
    return build_dataset(read_tables(events, frames[2], frames[1]), config, trained.config.seed)


def _texts(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame as the text of a file."""
    whole = frame.apply(lambda column: column.map(lambda v: None if pd.isna(v) else str(v).removesuffix(".0")))
    return whole.astype(object)


def over(trained: TrainedRun, dataset: Dataset) -> Funnel:
    """The weights and companions of a run over another data set of the same catalogue and encoders."""
    assert trained.retriever is not None
    config, retriever = trained.config, trained.retriever
    section = config.retrieval
    data = TowerData.of(dataset, section.tower, section.positive, section.seen)
    companions = {name: one.for_users(dataset, section.segments) for name, one in retriever.companions.items()}
    found = assemble_retriever(config, retriever.model, data, companions, retriever.index, retriever.item_vectors)
    return Funnel(replace(trained, dataset=dataset, retriever=found))


def assert_same_answers(live: Recommendations, rebuilt: Recommendations, *, scores: float = 1e-5) -> None:
    """Rung, eligible and items in order are equal, scores within a tolerance."""
    assert live.rungs == rebuilt.rungs
    assert np.array_equal(live.eligible, rebuilt.eligible)
    assert np.array_equal(live.rows, rebuilt.rows)
    np.testing.assert_allclose(live.scores, rebuilt.scores, atol=scores, rtol=0)
    for name, values in nonempty(rebuilt.tasks.items()):
        np.testing.assert_allclose(live.tasks[name], values, atol=scores, rtol=0)


def assert_same_state(live: Overlay, rebuilt: Funnel, users: Sequence[str]) -> None:
    """Seen items, histories, contexts, sequences and counts of users are equal to the bit."""
    data = rebuilt.dataset
    everything = np.arange(data.num_catalogue)[None, :]
    for user in nonempty(users):
        row = data.user_rows.get(user, -1)
        subject = subject_of(live.dataset, user)
        funnel, mine = (live.funnel, row) if subject is None else live.funnel.standing(subject)
        if row < 0:
            assert subject is None
            continue
        at, other = np.array([mine]), np.array([row])
        for name in ("events", "excluded"):
            theirs = [getattr(f.retriever.histories(r, 3), name).items for f, r in ((funnel, at), (rebuilt, other))]
            assert np.array_equal(*theirs), (user, name)
        moment = np.array([1e9])
        one, two = (f.dataset.candidates(r, everything, 3, moment) for f, r in ((funnel, at), (rebuilt, other)))
        for side in ("query", "item"):
            mine_, theirs_ = getattr(one, side), getattr(two, side)
            assert np.array_equal(mine_.categorical.numpy(), theirs_.categorical.numpy()), (user, side)
            assert np.array_equal(mine_.numeric.numpy(), theirs_.numeric.numpy(), equal_nan=True), (user, side)
            for name in ("bags", "sequences", "vectors"):
                for left, right in zip(getattr(mine_, name), getattr(theirs_, name), strict=True):
                    assert np.array_equal(left.numpy(), right.numpy()), (user, side, name)
