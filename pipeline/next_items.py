"""The offline figure of similar items: is the user's next item among those that are like the last one."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..base.arrays import I64
from ..base.ragged import Ragged
from ..data.split import Part
from ..evaluation.metrics.lists import list_metrics
from ..evaluation.summary import user_metrics_json
from ..funnel.similar import POOL, similar_lists
from ..retrieval.merge import merge
from ..retrieval.towers.windows import TowerData
from .trace import Bench

Json = dict[str, Any]
MIXED = "mixed"
METRICS = ("recall", "ndcg")


def next_items(data: TowerData, part: Part) -> tuple[I64, I64]:
    """Each user's last positive item before a part, and the first one in it: int64 [B] item rows each.

    Users without either are left out, and those whose next item is the last one again: an item is not like itself.
    """
    history = data.history
    starts, stops = data.ends(int(part)), history.ends(Part(part + 1)) if part < Part.TEST else history.ptr[1:]
    asked = np.flatnonzero((starts > history.ptr[:-1]) & (stops > starts))
    last, following = history.items[starts[asked] - 1], history.items[starts[asked]]
    moved = last != following
    return last[moved].astype(np.int64), following[moved].astype(np.int64)


def next_item_figures(bench: Bench) -> Json:
    """Recall and NDCG of the next item in the lists that `similar_items` gives for the last one, source by source.

    The next item is the only relevant one, so recall is how often it is found. Vectors and companions have learned from
    earlier parts alone, and of the part itself nothing but the next item is read.

    Returns:
        `requests`, `ranker: metrics` for `two_tower`, the companion of what is taken together, and `mixed`; empty where
        nobody has a last and a next item.
    """
    trained, retriever = bench.trained, bench.retriever
    config, dataset = trained.config.evaluation, trained.dataset
    last, following = next_items(retriever.data, bench.part)
    size = dataset.num_catalogue
    depth = min(bench.depth, size - 1)
    ks = [k for k in config.ks if k <= depth]
    if not len(last) or not ks:
        return {}
    seeds, place = np.unique(last, return_inverse=True)
    lists = {name: rows for name, (rows, _) in similar_lists(dataset, retriever, seeds, max(depth, POOL)).items()}
    if len(lists) > 1:
        lists[MIXED] = merge(list(lists.values()), depth, size).rows
    truth = Ragged.from_padded(following[:, None])
    figures: Json = {"requests": len(last), "sources": {}}
    for name, rows in lists.items():
        found = list_metrics(rows[place][:, :depth], truth, ks, METRICS)
        metrics = user_metrics_json(found, config)
        figures["sources"][name] = {key: value for key, value in metrics.items() if "@" in key}
    return figures
