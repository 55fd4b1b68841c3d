"""What variety costs: NDCG against how different the items of a list are, for every kind and strength."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..base.arrays import I64
from ..base.errors import ConfigError
from ..configs.rules import DiversityConfig, RulesConfig, VarietyKind
from ..evaluation.metrics.coverage import diversity, value_entropy
from ..evaluation.metrics.lists import list_metrics
from ..evaluation.summary import bootstrap_of, with_intervals
from ..funnel.arrange.compiled import ListRules
from ..funnel.arrange.personal import Valued
from ..funnel.arrange.stage import by_rules, by_score
from ..training.progress import track
from .trace import Bench

Json = dict[str, Any]

KINDS: tuple[VarietyKind, ...] = ("mmr", "dpp", "calibrated")
STRENGTHS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)


def variety_curve(bench: Bench, column: str) -> Json:
    """The funnel's lists under variety of every kind and strength, beside those by score alone.

    The run's other rules stay out, so that the curve is of variety.

    Args:
        bench: run and part.
        column: column of the items: `calibrated` follows its shares in the user's history, and the entropy of its
            values in a list is measured.

    Returns:
        `k`, `column`, and `points`, each with `kind`, `strength` (the first is kind `none`), `ndcg@k`, `diversity@k`
        (mean of 1 - cosine of the tower vectors over the pairs of a list), `entropy@k` (in bits, of the column's values
        in a list), and `ndcg_lost`, the difference to the first, user by user; each with its interval in `_ci`.

    Raises:
        ConfigError: the run keeps no such column of items.
    """
    trained, retriever = bench.trained, bench.retriever
    columns = trained.dataset.item_columns
    if column not in columns:
        raise ConfigError(
            f'the run keeps no item column "{column}" to measure variety by; it keeps {", ".join(sorted(columns))}'
        )
    valued = Valued.of(columns[column])
    config = trained.config.evaluation
    users, _, truth = bench.asked
    trace = bench.trace
    assert trace.candidates is not None
    assert trace.scores is not None
    rows, scores = np.asarray(trace.candidates, dtype=np.int64), np.asarray(trace.scores, dtype=np.float64)
    k = min(config.list_k, rows.shape[1])
    history = retriever.histories(users, int(bench.part))
    plain = by_score(rows, scores, k).rows
    base = list_metrics(plain, truth, [k], ("ndcg",))
    boot = bootstrap_of(len(users), config)
    judged, vectors = np.full(len(users), np.nan), retriever.likeness()

    def point(kind: str, strength: float, lists: I64) -> Json:
        metrics = list_metrics(lists, truth, [k], ("ndcg",))
        ndcg, lost = judged.copy(), judged.copy()
        ndcg[metrics.users] = metrics.values[f"ndcg@{k}"]
        lost[metrics.users] = base.values[f"ndcg@{k}"] - metrics.values[f"ndcg@{k}"]
        values = {
            f"ndcg@{k}": ndcg,
            "ndcg_lost": lost,
            f"diversity@{k}": diversity(lists, vectors, k),
            f"entropy@{k}": value_entropy(lists, valued.codes, valued.num_values, k),
        }
        return {"kind": kind, "strength": strength} | with_intervals(
            list(values), boot.means(np.stack(list(values.values()), axis=1)), boot
        )

    points = [point("none", 0.0, plain)]
    tried = [(kind, strength) for kind in KINDS for strength in STRENGTHS]
    for kind, strength in track(tried, "variety", len(tried)):
        section = DiversityConfig(kind=kind, strength=strength, column=column if kind == "calibrated" else "")
        rules = ListRules(RulesConfig(diversity=section), trained.dataset, retriever.likeness, bench.asked_at)
        shown = by_rules(
            rows,
            scores,
            k,
            rules,
            allowed=None,
            barred=history.excluded,
            history=history.events,
            chances=None,
        )
        points.append(point(kind, strength, shown.rows))
    return {"k": k, "column": column, "points": points}
