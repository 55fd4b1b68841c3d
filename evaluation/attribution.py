"""Where a two-stage recommender loses: the gap to a perfect NDCG, split over the stages so that the parts add up.

A relevant item must survive every stage: some retriever has to find it, the approximate index must not miss it, merging
several lists must not crowd it out, no filter may drop it, the ranker has to put it on top, and the list rules have to
leave it there. Filters and list rules are stages only of a funnel that has them. After each stage the best NDCG still
possible is the NDCG of a perfect order of what survived, so the ceilings fall from 1 to the NDCG delivered and each
stage's loss is the step it takes down: the steps telescope, hence they add up exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np

from ..base.arrays import F64, Bool, Floats, Ints
from ..base.errors import DataError
from ..base.ragged import Ragged, contains, locate
from .config import EvaluationConfig
from .metrics.lists import ideal_ndcg, list_metrics, rank_metrics
from .metrics.rows import user_auc
from .retriever_worth import source_metrics
from .summary import beyond_accuracy, bootstrap_of, user_metrics_json, with_intervals
from .uncertainty.bootstrap import UserBootstrap, auc_samples, ratio

Json = dict[str, Any]

ADVICE = {
    "retrieval": "the retrievers do not find what users want: train them longer, add one, or fetch more candidates",
    "ann": "the index misses what exact search finds: raise its search effort or rebuild it for a higher recall",
    "merge": "merging crowds out what some retriever found: take more candidates, or change the quotas",
    "filters": "filters drop items users want: look at what they remove before touching any model",
    "ranking": "the ranker has the right items and orders them badly: work on its features, labels and losses",
    "rules": "the list rules push wanted items out: loosen them",
}


@dataclass(frozen=True, kw_only=True)
class FunnelTrace:
    """What each stage of a funnel handed to the next, for U users; -1 pads short lists of item rows.

    Attributes:
        truth: relevant items of each user, each named once.
        retrieved: retriever name -> int [U, N_r], its exact best items.
        final: int [U, k], the lists delivered.
        ann: retriever name -> int [U, N_r], what its index returned; retrievers left out were searched exactly.
        candidates: int [U, C], what was left for the ranker; by default all that was retrieved.
        scores: float [U, C], what the ranker (after blending) gave each candidate.
        truth_scores: float [E], what the ranker gives each item of `truth`, retrieved or not.
        merged: int [U, C], what was kept when the lists were merged; by default all of them.
        proposed: bool [U, C, S], which of the S retrievers, in the order of `retrieved`, named each candidate.
        without: retriever name -> int [U, C], what merging keeps when it is left out.
        filters: whether filters stand between the lists and `candidates`; only then is "filters" a stage.
        rules: whether list rules stand between the ranker's order and `final`; only then is "rules" a stage.
    """

    truth: Ragged
    retrieved: Mapping[str, Ints]
    final: Ints
    _: KW_ONLY
    ann: Mapping[str, Ints] = field(default_factory=dict)
    candidates: Ints | None = None
    scores: Floats | None = None
    truth_scores: Floats | None = None
    merged: Ints | None = None
    proposed: Bool | None = None
    without: Mapping[str, Ints] = field(default_factory=dict)
    filters: bool = False
    rules: bool = False

    def __post_init__(self) -> None:
        lists = {**self.retrieved, **{f"index of {name}": rows for name, rows in self.ann.items()}, "final": self.final}
        lists |= {f"all but {name}": rows for name, rows in self.without.items()}
        lists |= {
            name: rows for name, rows in (("candidates", self.candidates), ("merged", self.merged)) if rows is not None
        }
        for name, rows in lists.items():
            if rows.ndim != 2 or len(rows) != len(self.truth):
                raise DataError(f"lists '{name}' of shape {list(rows.shape)} for {len(self.truth)} users; pass [U, n]")
        unknown = set(self.ann) - set(self.retrieved)
        if not self.retrieved or unknown:
            raise DataError(f"exact lists of retrievers {sorted(self.retrieved)}, index lists of {sorted(self.ann)}")
        if self.scores is not None and (self.candidates is None or self.scores.shape != self.candidates.shape):
            raise DataError(f"ranker scores of shape {list(self.scores.shape)} without candidates of the same shape")
        if self.proposed is not None:
            expected = () if self.candidates is None else (*self.candidates.shape, len(self.retrieved))
            if self.proposed.shape != expected:
                raise DataError(
                    f"proposers of shape {list(self.proposed.shape)}; pass [U, C, S] of the candidates and retrievers"
                )
        if self.truth_scores is not None and (self.scores is None or len(self.truth_scores) != len(self.truth.items)):
            raise DataError(f"{len(self.truth_scores)} truth scores; pass one per truth item, with candidate scores")


def funnel_metrics(
    trace: FunnelTrace,
    *,
    num_items: int,
    config: EvaluationConfig | None = None,
    popularity: Ints | None = None,
    item_vectors: Floats | None = None,
) -> Json:
    """The funnel report.

    Args:
        trace: what the stages handed on.
        num_items: N, size of the catalogue.
        config: `list_k` is the cut-off; draws and level of the intervals.
        popularity: int [N], training events of each item; adds `novelty@10` and `popularity@10` of the final lists.
        item_vectors: float [N, D]; adds `diversity@10`.

    Returns:
        End-to-end metrics of the final lists (`ndcg@10`, ..., `coverage@10`, ...); `oracle_ndcg@10`, a perfect ranker
        on these candidates; with truth scores `oracle_retrieval_ndcg@10`, a perfect retriever with this ranker; without
        filters `first_stage_ndcg@10`, the best retriever's list as it is, and `headroom_taken`, how much of the way
        from there to the oracle the later stages go; `retrievers`, recall of each and of their union; with `proposed`,
        `sources`, what each of them contributes (`sources.source_metrics`);
        `ranker`, its AUC, GAUC and NDCG among the candidates; `gap` = 1 - NDCG and `stages`, each with `ceiling`,
        `loss` (they sum to the gap), `share` of the gap and `recall` of the relevant items it leaves; and `verdict`,
        one sentence. Rates have an interval in `_ci`.
    """
    config = config or EvaluationConfig()
    k = min(config.list_k, trace.final.shape[1])
    truth = trace.truth
    if len(truth.unique().items) != len(truth.items):
        raise DataError("the truth names an item twice for a user; pass truth.unique()")
    final = list_metrics(trace.final, truth, [k], ("hit", "recall", "ndcg", "mrr", "precision"))
    out: Json = user_metrics_json(final, config)
    out |= beyond_accuracy(
        trace.final, [k], num_items=num_items, config=config, popularity=popularity, item_vectors=item_vectors
    )
    if len(final.users) == 0:
        return out | {"stages": [], "verdict": "No user has a relevant item, so nothing can be said of the funnel."}
    users, boot = final.users, bootstrap_of(len(final.users), config)
    relevant = truth.lengths[users].astype(np.float64)

    survivors = _survivors(trace)
    ceilings: dict[str, F64] = {}
    recalls: dict[str, F64] = {}
    for stage in ("retrieval", "ann", "merge", "filters"):
        if stage in survivors:
            count = np.bincount(truth.users[survivors[stage]], minlength=len(truth))[users]
            ceilings[stage], recalls[stage] = ideal_ndcg(count, truth.lengths[users], k), count / relevant
    oracle = list(ceilings.values())[-1]
    out |= with_intervals([f"oracle_ndcg@{k}"], boot.means(oracle[:, None]), boot)
    if not trace.filters:
        out |= _headroom(trace, final.values[f"ndcg@{k}"], oracle, boot, k)
    last = "ranking"
    if trace.scores is not None and trace.candidates is not None:
        by_score = _ranks_by_score(trace, trace.candidates, trace.scores, users=users, whole=False)
        out["ranker"] = _ranker_metrics(trace, by_score, users, boot, k)
        if trace.rules:
            ceilings["ranking"] = rank_metrics(by_score, truth.lengths, [k], ["ndcg"]).values[f"ndcg@{k}"]
            last = "rules"
        if trace.truth_scores is not None:
            whole = _ranks_by_score(trace, trace.candidates, trace.scores, users=users, whole=True)
            perfect = rank_metrics(whole, truth.lengths, [k], ["ndcg"]).values[f"ndcg@{k}"]
            out |= with_intervals([f"oracle_retrieval_ndcg@{k}"], boot.means(perfect[:, None]), boot)
    ceilings[last] = final.values[f"ndcg@{k}"]
    recalls[last] = final.values[f"recall@{k}"]
    out["retrievers"] = _retriever_recall(trace, users, boot)
    if trace.proposed is not None and trace.candidates is not None:
        lists = {**trace.retrieved, **trace.ann}
        candidates, delivered = trace.candidates, trace.final[:, :k]
        out["sources"] = source_metrics(
            truth, list(lists), candidates, trace.proposed, delivered, lists, trace.without, users, boot
        )
    out["gap"], out["stages"] = _attribute(ceilings, recalls, boot)
    out["verdict"] = verdict(out, k)
    return out


def verdict(report: Json, k: int) -> str:
    """One sentence: which stage loses most of the NDCG, and so where the next hour is best spent."""
    stages = report["stages"]
    worst = max(stages, key=lambda stage: float(stage["loss"]))
    if report["gap"] <= 0 or worst["loss"] <= 0:
        return f"NDCG@{k} is perfect; nothing is lost at any stage."
    text = (
        f"Of the {report['gap']:.3f} of NDCG@{k} that is missing, {worst['loss']:.3f} ({worst['share']:.0%}) "
        f"is lost in {worst['stage']}: {ADVICE[worst['stage']]}"
    )
    perfect = report.get(f"oracle_retrieval_ndcg@{k}")
    if perfect is not None:
        text += (
            f" (a perfect ranker on these candidates would reach {report[f'oracle_ndcg@{k}']:.3f}, "
            f"a perfect retriever with this ranker {perfect:.3f})"
        )
    return text + "."


def _headroom(trace: FunnelTrace, delivered: F64, oracle: F64, boot: UserBootstrap, k: int) -> Json:
    """The best retriever's own order, and the share of the way from it to a perfect one that the later stages go."""
    padded = [
        np.pad(rows, ((0, 0), (0, max(k - rows.shape[1], 0))), constant_values=-1) for rows in trace.retrieved.values()
    ]
    alone = [list_metrics(rows, trace.truth, [k], ["ndcg"]).values[f"ndcg@{k}"] for rows in padded]
    first = max(alone, key=lambda values: float(values.mean()))
    samples = boot.means(np.stack([first, delivered, oracle], axis=1))
    taken = ratio(samples[:, 1:2] - samples[:, :1], samples[:, 2:] - samples[:, :1])
    names = [f"first_stage_ndcg@{k}", "headroom_taken"]
    return with_intervals(names, np.concatenate([samples[:, :1], taken], axis=1), boot)


def _survivors(trace: FunnelTrace) -> dict[str, Bool]:
    """Which entries of the truth are still there after each stage that took part, bool [E].

    Raises:
        DataError: the candidates lack relevant items that the lists hold, in a funnel without filters.
    """
    truth = trace.truth

    def hits(lists: Mapping[str, Ints]) -> Bool:
        inside = np.zeros(len(truth.items), dtype=bool)
        for rows in lists.values():
            inside |= _in_lists(truth, rows)
        return inside

    stages = {"retrieval": hits(trace.retrieved)}
    if trace.ann:
        stages["ann"] = hits({**trace.retrieved, **trace.ann})
    if trace.merged is not None:
        stages["merge"] = hits({"merged": trace.merged})
    if trace.candidates is not None:
        survivors = hits({"candidates": trace.candidates})
        last = "filters" if trace.filters else list(stages)[-1]
        lost = int((stages.get(last, survivors) & ~survivors).sum())
        if lost:
            raise DataError(
                f"the candidates lack {lost} relevant items that are left after {last}; pass filters=True where "
                "something stands between the lists and the candidates"
            )
        stages[last] = survivors
    return stages


def _in_lists(truth: Ragged, rows: Ints) -> Bool:
    """Whether each entry of the truth stands in its user's list of int [U, n], bool [E]."""
    at = locate(truth, np.repeat(np.arange(len(rows)), rows.shape[1]), rows.reshape(-1))
    inside = np.zeros(len(truth.items), dtype=bool)
    inside[at[at >= 0]] = True
    return inside


def _ranks_by_score(trace: FunnelTrace, candidates: Ints, scores: Floats, *, users: Ints, whole: bool) -> Ragged:
    """Rank of each entry of the truth when candidates are ordered by score; 0 when it is no candidate.

    With `whole` the missing relevant items join the candidates with their own scores. Ties go to the place in the
    candidate list, and missing items come after the listed ones.
    """
    truth = trace.truth
    lists = candidates[users]
    valid = lists >= 0
    owner = np.repeat(users, valid.sum(1))
    item, score = lists[valid], np.asarray(scores[users][valid], dtype=np.float64)
    if whole and trace.truth_scores is not None:
        missing = ~_in_lists(truth, candidates)
        owner = np.concatenate([owner, truth.users[missing]])
        item = np.concatenate([item, truth.items[missing]])
        score = np.concatenate([score, np.asarray(trace.truth_scores, dtype=np.float64)[missing]])
    order = np.lexsort((-score, owner))
    owner, item = owner[order], item[order]
    rank = np.arange(len(owner)) - np.searchsorted(owner, owner) + 1
    at = locate(truth, owner, item)
    ranks = np.zeros(len(truth.items), dtype=np.int64)
    ranks[at[at >= 0]] = rank[at >= 0]
    return Ragged(ranks, truth.ptr)


def _ranker_metrics(trace: FunnelTrace, ranks: Ragged, users: Ints, boot: UserBootstrap, k: int) -> Json:
    """The ranker judged among the candidates it was given: relevant items that were retrieved are the positives."""
    assert trace.candidates is not None
    assert trace.scores is not None
    lists = trace.candidates[users]
    valid = lists >= 0
    row = np.repeat(np.arange(len(users)), valid.sum(1))
    label = contains(trace.truth, users[row], lists[valid]).astype(np.float64)
    score = np.asarray(trace.scores[users][valid], dtype=np.float64)
    own = user_auc(label, score, row)
    inside = np.bincount(ranks.users[ranks.items > 0], minlength=len(trace.truth))
    order = rank_metrics(ranks, inside, [k], ["ndcg"])
    ndcg = np.full(len(trace.truth), np.nan)
    ndcg[order.users] = order.values[f"ndcg@{k}"]
    weight, weighted = np.zeros(len(users)), np.zeros(len(users))
    weight[own.users], weighted[own.users] = own.rows, own.values * own.rows
    sums = boot.sums(np.stack([weighted, weight], axis=1))
    samples = np.concatenate(
        [auc_samples(boot, label, score, row), ratio(sums[:, :1], sums[:, 1:]), boot.means(ndcg[users][:, None])],
        axis=1,
    )
    counts = {"users": len(order.users), "candidates": int(valid.sum()), "positives": int(label.sum())}
    return with_intervals(["auc", "gauc", f"ndcg@{k}"], samples, boot) | counts


def _retriever_recall(trace: FunnelTrace, users: Ints, boot: UserBootstrap) -> Json:
    """Recall of each retriever over its whole list, exact and by its index, and what it alone finds."""
    truth, out = trace.truth, {}
    inside = {name: _in_lists(truth, rows) for name, rows in trace.retrieved.items()}
    times = np.sum(list(inside.values()), axis=0)
    columns = {name: {"recall": hits, "recall_alone": hits & (times == 1)} for name, hits in inside.items()}
    for name, rows in trace.ann.items():
        columns[name]["recall_ann"] = _in_lists(truth, rows)
    columns["merged"] = {"recall": times > 0}
    for name, flags in columns.items():
        per_user = [
            np.bincount(truth.users[f], minlength=len(truth))[users] / truth.lengths[users] for f in flags.values()
        ]
        out[name] = with_intervals(list(flags), boot.means(np.stack(per_user, axis=1)), boot)
        if name in trace.retrieved:
            out[name]["k"] = int(trace.retrieved[name].shape[1])
    return out


def _attribute(ceilings: dict[str, F64], recalls: dict[str, F64], boot: UserBootstrap) -> tuple[float, list[Json]]:
    """The steps from 1 down to the NDCG delivered, with an interval for each."""
    names = list(ceilings)
    ladder = np.stack([np.ones(boot.num_users), *ceilings.values()], axis=1)
    samples = boot.means(ladder)
    losses = samples[:, :-1] - samples[:, 1:]
    intervals, gap = boot.interval(losses), float(1.0 - samples[0, -1])
    stages: list[Json] = []
    for column, name in enumerate(names):
        loss, interval = float(losses[0, column]), intervals[column]
        stage: Json = {"stage": name, "ceiling": float(samples[0, column + 1]), "loss": loss}
        if boot.draws:
            stage["loss_ci"] = None if interval is None else list(interval)
        stage["share"] = loss / gap if gap > 0 else 0.0
        if name in recalls:
            stage |= with_intervals(["recall"], boot.means(recalls[name][:, None]), boot)
        stages.append(stage)
    return gap, stages
