"""What an evaluation says of a run besides its figures: protocol, training, gates, blend, and lists of a few users."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..base.arrays import Ints
from ..data.split import Part
from ..funnel.ranked import effective_blend
from ..funnel.run import TrainedRun
from ..ranking.blend_search import searches
from ..ranking.gate_log import read_gates
from .trace import Bench

EXAMPLES = 10
Json = dict[str, Any]


def protocol(trained: TrainedRun, stage: str = "all") -> Json:
    """How the numbers came about: what a reader must know before comparing them with others.

    Candidates, seen items and the catalogue that is ranked are named only where lists are measured.
    """
    data, split, settings = trained.dataset, trained.config.data.split, trained.config.evaluation
    lists: Json = {
        "filter_seen": trained.config.seen.policy != "none",
        "seen": trained.config.seen.sentence(),
        "ranking": "full",
        "positive": trained.config.retrieval.positive or "every event",
        "candidates": trained.config.retrieval.num_candidates,
    }
    if not trained.config.rules.idle:
        lists["rules"] = trained.config.rules.model_dump(mode="json", exclude_defaults=True)
    out: Json = {
        "split": split.kind,
        **(lists if trained.retriever is not None and stage != "ranking" else {}),
        "test_rows": len(data.rows(Part.TEST)),
        "train_rows": len(data.rows(Part.TRAIN)),
        "intervals": f"{settings.level:.0%}, {settings.draws} bootstrap draws of users",
        "notes": list(data.notes),
    }
    if trained.final is not None:  # published figures seldom learn the validation rows
        out["last_fit"] = trained.final["rows"]
    return out


def training_account(trained: TrainedRun) -> Json:
    """What both stages went through: stage -> one record of numbers per epoch."""
    return {
        stage: [{key: value for key, value in epoch.items() if not isinstance(value, dict)} for epoch in epochs]
        for stage, epochs in trained.training.items()
    }


def gate_account(bench: Bench) -> Json:
    """The gate report on test rows, and on validation rows after every epoch of the training."""
    trained = bench.trained
    assert trained.ranker is not None
    report: Json = read_gates(trained.ranker, trained.dataset, trained.dataset.rows(Part.TEST))
    if not report:
        return {}
    epochs = trained.training.get("ranking", ())
    return {**report, "epochs": [{"epoch": epoch["epoch"], **epoch["gates"]} for epoch in epochs if "gates" in epoch]}


def blend_account(trained: TrainedRun) -> Json:
    """The table of weights that makes the lists, and where it comes from; a search's own account beside it."""
    blend, search = effective_blend(trained), trained.found_blend
    if search is not None and searches(trained.config.blend):
        return {"chosen_by": "search on the validation part", **search.to_json()}
    configured = bool(trained.config.blend.weights) or blend.kind == "task"
    tasks = [task.name for task in trained.ranker.tasks] if trained.ranker is not None else []
    weights = {blend.task or tasks[0]: 1.0} if blend.kind == "task" else blend.weights or dict.fromkeys(tasks, 1.0)
    return {"chosen_by": "configuration" if configured else "default", "kind": blend.kind, "weights": dict(weights)}


def example_lists(bench: Bench, final: Ints) -> list[Json]:
    """What a few users get, with titles: their latest history, the list, and which items they went on to take."""
    dataset, (users, seen, truth) = bench.trained.dataset, bench.asked
    places = np.linspace(0, len(users) - 1, min(EXAMPLES, len(users))).astype(int)
    out = []
    for i in places:
        relevant = set(truth.items[truth.ptr[i] : truth.ptr[i + 1]].tolist())
        past = seen.items[seen.ptr[i] : seen.ptr[i + 1]][-5:]
        out.append(
            {
                "user": dataset.user_ids[users[i]],
                "history": [dataset.titles[row] for row in past],
                "items": [{"title": dataset.titles[row], "hit": int(row) in relevant} for row in final[i] if row >= 0],
            }
        )
    return out
