"""What the funnel would have earned on the logged exposures, where the log has the logging policy's propensities.

The funnel's list is deterministic; judged off-policy it must explore. The target policy draws one item for a slot:
mostly from a softmax of the funnel's own ranking, now and then evenly from all items that the user may be shown. Rows
whose place was not drawn have no propensity; they say nothing of another policy and are left out, and counted.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..base.errors import DataError
from ..base.ragged import contains
from ..data.split import Part
from ..evaluation.off_policy import off_policy_value
from ..funnel.funnel import Funnel
from .trace import BLOCK, Bench

EXPLORE = 0.2
"""Share of even draws in the target policy."""
CLIP = 20.0
"""Largest importance weight."""


def off_policy_report(bench: Bench, task: str) -> dict[str, Any]:
    """IPS, SNIPS and doubly robust value of the funnel as a policy, in `task` labels per exposure.

    Args:
        bench: run and part.
        task: binary task that counts as reward.

    Returns:
        What `off_policy_value` says, and `without_propensity`, the rows that were left out.

    Raises:
        DataError: the log has no propensities.
    """
    trained, dataset = bench.trained, bench.trained.dataset
    events = dataset.events
    if not has_propensities(bench):
        raise DataError(
            "off-policy estimates need the logging policy's probability of each exposure, and the data names none; "
            "set data.propensity to that column"
        )
    assert events.propensities is not None
    rows = dataset.rows(Part.TEST).numpy()
    told = np.isfinite(events.propensities[rows])
    rows = rows[told & (events.items[rows] >= 0) & (events.items[rows] < dataset.num_catalogue)]
    users, of_row = np.unique(events.users[rows], return_inverse=True)
    funnel = Funnel(trained)
    rules = funnel.rules.at(bench.asked_at)
    allowed = None if rules is None else rules.allowed
    target = np.zeros(len(rows))
    expected = np.zeros(len(users))
    for start in range(0, len(users), BLOCK):
        block = users[start : start + BLOCK]
        excluded = bench.retriever.histories(block, int(bench.part)).excluded
        if (barred := funnel.barred(rules, block, int(bench.part))) is not None:
            excluded = excluded.followed_by(barred)
        count = trained.config.retrieval.num_candidates
        candidates = bench.retriever.candidates(block, int(bench.part), count, allowed, excluded)
        ranked = funnel.rank(block, candidates, int(bench.part))
        log_score = np.where(ranked.rows >= 0, np.log(np.maximum(ranked.scores, 1e-12)), -np.inf)
        policy = np.exp(log_score - log_score.max(1, keepdims=True))
        policy /= policy.sum(1, keepdims=True)
        expected[start : start + BLOCK] = (policy * ranked.tasks[task]).sum(1)
        mine = np.flatnonzero((of_row >= start) & (of_row < start + BLOCK))
        owner, items = of_row[mine] - start, events.items[rows[mine]]
        same = ranked.rows[owner] == items[:, None]
        may = ~contains(excluded.unique(), owner, items) & (allowed is None or allowed.contains(items))
        even = EXPLORE / np.maximum(funnel.ladder.eligible(excluded, allowed)[owner], 1)
        target[mine] = even * may + (1.0 - EXPLORE) * (policy[owner] * same).sum(1)
    calibrator = trained.calibrators.get(task)
    logits = bench.row_logits[task][np.isin(dataset.rows(Part.TEST).numpy(), rows)].astype(np.float64)
    logged = calibrator(logits) if calibrator is not None else 1.0 / (1.0 + np.exp(-logits))
    column = dataset.task_names.index(task)
    rewards = events.labels[rows, column].astype(np.float64)
    base = float(rewards.mean())
    return off_policy_value(
        rewards,
        events.propensities[rows],
        target,
        events.users[rows],
        clip=CLIP,
        reward_model=(logged, (1.0 - EXPLORE) * expected[of_row] + EXPLORE * base),
        config=trained.config.evaluation,
    ) | {"task": task, "explore": EXPLORE, "clip": CLIP, "without_propensity": int((~told).sum())}


def has_propensities(bench: Bench) -> bool:
    """Whether any row of the part was drawn with a known probability."""
    propensities = bench.trained.dataset.events.propensities
    if propensities is None:
        return False
    return bool(np.isfinite(propensities[bench.trained.dataset.rows(bench.part).numpy()]).any())
