"""What a run answers to the test part: the raw material of every number in the evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..base.arrays import F32, F64, I64, Bool, Ints
from ..base.ragged import Ragged
from ..data.schema import TaskSpec
from ..data.split import Part
from ..evaluation.attribution import FunnelTrace
from ..funnel.funnel import Funnel
from ..funnel.ranked import Ranked
from ..funnel.run import TrainedRun
from ..ranking.blend import blend
from ..ranking.labels import label_values
from ..ranking.requests import SELECT
from ..ranking.scoring import score_rows
from ..retrieval.retriever import TOWER, Proposals, Retriever
from ..retrieval.towers.train import requests
from ..training.progress import track

BLOCK = 64
"""Requests ranked at once."""


@dataclass(frozen=True)
class Bench:
    """A run and the requests of one part, answered once and kept.

    Attributes:
        trained: the run in memory.
        part: whose rows are the truth; everything later than its start is unknown to the answers.
        depth: length of the retrievers' lists.
    """

    trained: TrainedRun
    part: Part
    depth: int

    @property
    def retriever(self) -> Retriever:
        """The first stage."""
        assert self.trained.asked is not None
        return self.trained.asked

    @cached_property
    def asked(self) -> tuple[I64, Ragged, Ragged]:
        """User rows [B], items seen before, and items to be found."""
        return requests(self.retriever.data, self.part)

    @cached_property
    def queries(self) -> F32:
        """Query vectors, float32 [B, width]."""
        return self.retriever.queries(self.asked[0], int(self.part))

    def lists(self, name: str, exact: bool = True) -> I64:
        """One retriever's best items of every request, int64 [B, depth], seen ones left out.

        Where a baseline knows too little its list goes on by popularity: so it would be served, and so it is judged.

        Args:
            name: `two_tower` or a baseline.
            exact: score everything; otherwise ask the index.
        """
        histories = self.retriever.histories(self.asked[0], int(self.part))
        return self.retriever.propose(name, self.queries, histories, self.depth, exact=exact, complete=True)

    @cached_property
    def systems(self) -> dict[str, I64]:
        """The exact lists of towers, baselines and proposers by name; baselines that only score are left out."""
        section = self.trained.config.retrieval
        listed = {*section.baselines, *section.proposers}
        names = [TOWER, *(name for name in self.retriever.companions if name in listed)]
        return {name: self.lists(name) for name in track(names, "retrieving", len(names))}

    @property
    def asked_at(self) -> float:
        """When the requests stand for dated rules, seconds since 1970: at the last event before the part."""
        events = self.trained.dataset.events
        return float(events.times[events.parts < self.part].max(initial=0.0))

    @cached_property
    def trace(self) -> FunnelTrace:
        """What each stage of the funnel handed to the next."""
        funnel, retriever = Funnel(self.trained), self.retriever
        users, _, truth = self.asked
        count = self.trained.config.retrieval.num_candidates
        depth = self.trained.config.evaluation.list_k
        several = len(retriever.proposers) > 1
        rules = funnel.rules.at(self.asked_at)
        allowed = None if rules is None else rules.allowed
        filters = rules is not None and rules.filters
        exact, ann, without, candidates, verdicts, truth_scores, shown = [], [], [], [], [], [], []
        starts = range(0, len(users), BLOCK)
        for start in track(starts, "ranking", len(starts)):
            block = users[start : start + BLOCK]
            answers = retriever.proposals(block, int(self.part), count)
            excluded, kept_out = answers.histories.excluded, funnel.barred(rules, block, int(self.part))
            if kept_out is not None:
                excluded = excluded.followed_by(kept_out)
            if not filters:
                merged = retriever.merged(answers)
                part = retriever.describe(merged.rows, answers.queries, answers.histories, merged.ranks)
            else:
                part = retriever.candidates(block, int(self.part), count, allowed, excluded)
            verdict = funnel.rank(block, part, int(self.part))
            shown.append(funnel.shown(verdict, depth, block, int(self.part), rules, allowed, excluded).rows)
            candidates.append(part)
            verdicts.append(verdict)
            theirs = slice(truth.ptr[start], truth.ptr[start + len(block)])
            missing = truth.users[theirs] - start, truth.items[theirs]
            truth_scores.append(self._truth_scores(funnel, block, answers, verdict, *missing))
            lists = dict(answers.lists)
            if several and not filters:
                rest = {name: {other: lists[other] for other in lists if other != name} for name in lists}
                without.append({name: retriever.joined(others).rows for name, others in rest.items()})
            if retriever.index is not None and TOWER in lists:
                ann.append(lists[TOWER])
                lists[TOWER] = retriever.propose(TOWER, answers.queries, answers.histories, count, exact=True)
            exact.append(lists)
        rows = np.concatenate([part.rows for part in candidates])
        return FunnelTrace(
            truth=truth,
            retrieved=_joined(exact),
            final=np.concatenate(shown),
            ann={TOWER: np.concatenate(ann)} if ann else {},
            candidates=rows,
            scores=np.concatenate([verdict.scores for verdict in verdicts]),
            truth_scores=np.concatenate(truth_scores),
            merged=rows if not filters and (several or retriever.proposers[0] != TOWER) else None,
            proposed=np.concatenate([part.proposed for part in candidates]),
            without=_joined(without),
            filters=filters,
            rules=rules is not None,
        )

    def _truth_scores(
        self,
        funnel: Funnel,
        users: I64,
        answers: Proposals,
        ranked: Ranked,
        owner: Ints,
        items: Ints,
    ) -> F64:
        """What the ranker gives each relevant item, had the retriever put the missed ones last: float64 [E].

        A missed item is described and weighed as if it stood in the list that was served, which itself stays as it was:
        scores are standardised among the served candidates, and `select` is shared out among them. Were the missed ones
        counted too, each would take its own share off the sum that it is compared by, the more the more were missed.
        """
        column = (ranked.rows[owner] == items[:, None]).argmax(1)
        inside = ranked.rows[owner, column] == items
        out = np.where(inside, ranked.scores[owner, column], -np.inf)
        missed = np.flatnonzero(~inside)
        if not len(missed):
            return out
        nth = np.arange(len(missed)) - np.searchsorted(owner[missed], owner[missed])
        extra = np.full((len(users), int(nth.max()) + 1), -1, dtype=np.int64)
        extra[owner[missed], nth] = items[missed]
        served = ranked.rows.shape[1]
        rows = np.concatenate([ranked.rows, extra], axis=1)
        nobody = np.zeros((*rows.shape, 1), dtype=np.int32)
        candidates = self.retriever.describe(rows, answers.queries, answers.histories, nobody, served)
        whole = funnel.rank(users, candidates, int(self.part))
        tasks = dict(whole.tasks)
        if SELECT in tasks:
            tasks[SELECT] = tasks[SELECT] / np.maximum(tasks[SELECT][:, :served].sum(1, keepdims=True), 1e-30)
        out[missed] = blend(tasks, funnel.blend)[owner[missed], served + nth]
        return out

    @cached_property
    def row_logits(self) -> dict[str, F32]:
        """Logits of every task on the part's logged rows, task -> float32 [R]."""
        assert self.trained.ranker is not None
        return score_rows(self.trained.ranker, self.trained.dataset, self.trained.dataset.rows(self.part))

    def _labels(self, kind: str) -> Iterator[tuple[TaskSpec, Bool, F64]]:
        """Tasks of one kind that the ranker knows, each with mask [R] and labels [R] of the part's logged rows."""
        dataset = self.trained.dataset
        rows = dataset.rows(self.part).numpy()
        for column, task in enumerate(dataset.config.tasks):
            if task.kind == kind and task.name in self.row_logits:
                yield task, dataset.events.mask[rows, column], dataset.events.labels[rows, column].astype(np.float64)

    def task_rows(self) -> Mapping[str, tuple[Bool, F64, F64]]:
        """Per binary task: mask [R], labels [R] and raw logits [R] of the part's logged rows."""
        return {
            task.name: (mask, labels, self.row_logits[task.name].astype(np.float64))
            for task, mask, labels in self._labels("binary")
        }

    def value_rows(self) -> Mapping[str, tuple[Bool, F64, F64]]:
        """Per regression task: mask [R], labels [R] and predictions [R], in the label's unit, of the logged rows."""
        return {
            task.name: (mask, labels, label_values(task, self.row_logits[task.name]))
            for task, mask, labels in self._labels("regression")
        }


def _joined(blocks: Sequence[Mapping[str, I64]]) -> dict[str, I64]:
    """The lists of blocks of requests, name by name, as lists of all requests."""
    return {name: np.concatenate([block[name] for block in blocks]) for name in (blocks[0] if blocks else ())}
