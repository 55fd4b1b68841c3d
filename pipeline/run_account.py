"""What an evaluation says of a run besides its figures: protocol, training, gates, blend, and lists of a few users."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..base.arrays import Ints
from ..data.split import Part
from ..funnel.funnel import effective_blend
from ..funnel.run import TrainedRun
from ..ranking.blend_search import searches
from ..ranking.gate_log import read_gates
from .trace import Bench

EXAMPLES = 10
Json = dict[str, Any]


def protocol(stages: TrainedRun, stage: str = "all") -> Json:
    """How the numbers came about: what a reader must know before comparing them with others.

    Candidates, seen items and the catalogue that is ranked are named only where lists are measured.
    """
    data, split = stages.dataset, stages.config.data.split
    lists: Json = {
        "filter_seen": True,
        "seen": "items the user has taken (positive events); items that were only shown return",
        "ranking": "full",
        "positive": stages.config.retrieval.positive or "every event",
        "candidates": stages.config.retrieval.num_candidates,
    }
    out: Json = {
        "split": split.kind,
        **(lists if stages.retriever is not None and stage != "ranking" else {}),
        "test_rows": len(data.rows(Part.TEST)),
        "train_rows": len(data.rows(Part.TRAIN)),
        "intervals": f"{stages.config.evaluation.level:.0%}, {stages.config.evaluation.draws} bootstrap draws of users",
        "notes": list(data.notes),
    }
    return out


def training_account(stages: TrainedRun) -> Json:
    """What both stages went through: stage -> one record of numbers per epoch."""
    return {
        stage: [{key: value for key, value in epoch.items() if not isinstance(value, dict)} for epoch in epochs]
        for stage, epochs in stages.training.items()
    }


def gate_account(bench: Bench) -> Json:
    """The gate report on test rows, and on validation rows after every epoch of the training."""
    stages = bench.stages
    assert stages.ranker is not None
    report: Json = read_gates(stages.ranker, stages.dataset, stages.dataset.rows(Part.TEST))
    if not report:
        return {}
    epochs = stages.training.get("ranking", ())
    return {**report, "epochs": [{"epoch": epoch["epoch"], **epoch["gates"]} for epoch in epochs if "gates" in epoch]}


def blend_account(stages: TrainedRun) -> Json:
    """The table of weights that makes the lists, and where it comes from; a search's own account beside it."""
    used, found = effective_blend(stages), stages.found_blend
    if found is not None and searches(stages.config.blend):
        return {"chosen_by": "search on the validation part", **found.to_json()}
    configured = bool(stages.config.blend.weights) or used.kind == "task"
    tasks = [task.name for task in stages.ranker.tasks] if stages.ranker is not None else []
    weights = {used.task or tasks[0]: 1.0} if used.kind == "task" else used.weights or dict.fromkeys(tasks, 1.0)
    return {"chosen_by": "configuration" if configured else "default", "kind": used.kind, "weights": dict(weights)}


def example_lists(bench: Bench, final: Ints) -> list[Json]:
    """What a few users get, with titles: their latest history, the list, and which items they went on to take."""
    dataset, (users, seen, truth) = bench.stages.dataset, bench.asked
    chosen = np.linspace(0, len(users) - 1, min(EXAMPLES, len(users))).astype(int)
    out = []
    for i in chosen:
        wanted = set(truth.items[truth.ptr[i] : truth.ptr[i + 1]].tolist())
        past = seen.items[seen.ptr[i] : seen.ptr[i + 1]][-5:]
        out.append(
            {
                "user": dataset.user_ids[users[i]],
                "history": [dataset.titles[row] for row in past],
                "items": [{"title": dataset.titles[row], "hit": int(row) in wanted} for row in final[i] if row >= 0],
            }
        )
    return out
