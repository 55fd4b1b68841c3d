"""Similar items are judged by the next item, straight from the log, and nothing later is read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import recsys
from recsys.artifacts.folder import open_run
from recsys.data.split import Part
from recsys.funnel.folder import load_run
from recsys.funnel.run import TrainedRun
from recsys.funnel.similar import By
from recsys.pipeline.next_items import next_item_figures, next_items
from recsys.pipeline.trace import Bench
from recsys.tests.support.tiny import TinyRun

K = 5


@pytest.fixture(scope="module")
def stages(tiny_run: TinyRun) -> TrainedRun:
    return load_run(open_run(tiny_run.folder))


def test_the_next_item_is_looked_for_among_those_like_the_last_one(stages: TrainedRun, tiny_run: TinyRun) -> None:
    """From the log and the answers of `similar_items`, in plain loops."""
    events, data = stages.dataset.events, stages.dataset
    clicked = (events.labels[:, 0] > 0) & (events.items < data.num_catalogue)
    pairs = []
    for user in range(data.num_users):
        own = np.flatnonzero(clicked & (events.users == user))
        before, later = own[events.parts[own] < Part.TEST], own[events.parts[own] == Part.TEST]
        if len(before) and len(later) and events.items[before[-1]] != events.items[later[0]]:
            pairs.append((data.item_ids[events.items[before[-1]]], data.item_ids[events.items[later[0]]]))
    depth = max(stages.config.evaluation.ks)
    found = next_item_figures(Bench(stages, Part.TEST, depth))
    assert found["requests"] == len(pairs) > 5
    rec = recsys.load(tiny_run.folder)
    kinds: dict[str, By] = {"two_tower": "vector", "item_knn": "together", "mixed": "mixed"}
    assert found["sources"].keys() == kinds.keys()
    for name, by in kinds.items():
        lists = rec.similar([last for last, _ in pairs], depth, by=by)
        ids = [[data.item_ids[row] for row in rows if row >= 0][:K] for rows in lists.rows]
        ranks = [own.index(item) + 1 if item in own else 0 for own, (_, item) in zip(ids, pairs, strict=True)]
        assert found["sources"][name][f"recall@{K}"] == pytest.approx(np.mean([rank > 0 for rank in ranks]))
        gains = [1 / np.log2(1 + rank) if rank else 0.0 for rank in ranks]
        assert found["sources"][name][f"ndcg@{K}"] == pytest.approx(np.mean(gains))
        low, high = found["sources"][name][f"recall@{K}_ci"]
        assert low <= found["sources"][name][f"recall@{K}"] <= high


def test_what_follows_the_next_item_changes_no_figure_of_similar_items(stages: TrainedRun) -> None:
    """The rest of the test part is neither asked about nor learned from."""
    retriever = stages.retriever
    assert retriever is not None
    data = retriever.data
    asked = next_items(data, Part.TEST)
    history = data.history
    starts = history.ends(Part.TEST)
    first = np.zeros(len(history.items), dtype=bool)
    first[starts[starts < history.ptr[1:]]] = True
    rest = (history.parts == Part.TEST) & ~first
    assert rest.sum() > 5
    changed = replace(history, items=np.where(rest, (history.items + 1) % data.num_items, history.items))
    again = next_items(replace(data, history=changed), Part.TEST)
    assert all(np.array_equal(one, other) for one, other in zip(asked, again, strict=True))
