"""What a run answers to the test part: the raw material of every number in the evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..base.arrays import F32, F64, I64, AnyArray, Bool, Ints
from ..base.ragged import Ragged
from ..base.shares import Arrays, shared_out
from ..data.schema import TaskSpec
from ..data.split import Part
from ..evaluation.attribution import FunnelTrace
from ..funnel.arrange.compiled import ListRules
from ..funnel.funnel import Funnel
from ..funnel.ranked import Ranked
from ..funnel.run import TrainedRun
from ..ranking.blend import blend
from ..ranking.labels import label_values
from ..ranking.requests import SELECT
from ..ranking.scoring import SCORE_ROWS, score_rows
from ..retrieval.retriever import TOWER, Proposals, Retriever
from ..retrieval.towers.train import requests
from ..training.progress import track

BLOCK = 64
"""Requests ranked at once."""
LISTED = 4096
"""Requests whose lists are made at once."""


@dataclass(frozen=True)
class Bench:
    """A run and the requests of one part, answered once and kept.

    Several processes answer a share each (`answer`); the first one then knows what one process would.

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

    @property
    def popularity(self) -> I64:
        """Training events of each item of the catalogue, int64 [N]."""
        return self.retriever.data.popularity(Part.VALID).numpy().astype(np.int64)

    @cached_property
    def asked(self) -> tuple[I64, Ragged, Ragged]:
        """User rows [B], items seen before, and items to be found."""
        return requests(self.retriever.data, self.part)

    def answer(self, *, lists: bool, funnel: bool, rows: bool) -> None:
        """Answer now what the figures of an evaluation are made of, instead of when it is first asked for.

        Args:
            lists: `queries` and `systems`.
            funnel: `trace`.
            rows: `row_logits`.
        """
        if lists:
            _ = self._listed
        if funnel:
            _ = self._traced
        if rows:
            _ = self.row_logits

    @property
    def queries(self) -> F32:
        """Query vectors, float32 [B, width]."""
        return self._listed["queries"]

    @property
    def systems(self) -> dict[str, I64]:
        """The exact lists of towers, baselines and proposers by name; baselines that only score are left out."""
        return _named("lists", self._listed)

    @cached_property
    def _listed(self) -> Arrays:
        """`queries`, and the lists of each system as `lists/<name>`.

        A list is a retriever's best items of every request, int64 [B, depth], seen ones left out. Where a baseline
        knows too little its list goes on by popularity: so it would be served, and so it is judged.
        """
        section = self.trained.config.retrieval
        listed = {*section.baselines, *section.proposers}
        names = [TOWER, *(name for name in self.retriever.companions if name in listed)]
        users, moment = self.asked[0], int(self.part)

        def answered(start: int) -> Arrays:
            block = users[start : start + LISTED]
            queries, histories = self.retriever.queries(block, moment), self.retriever.histories(block, moment)
            found: Arrays = {"queries": queries}
            for name in names:
                best = self.retriever.propose(name, queries, histories, self.depth, exact=True, complete=True)
                found[f"lists/{name}"] = best
            return found

        return shared_out(range(0, len(users), LISTED), answered, _watched("retrieving"))

    @property
    def asked_at(self) -> float:
        """When the requests stand for dated rules, seconds since 1970: at the last event before the part."""
        events = self.trained.dataset.events
        return float(events.times[events.parts < self.part].max(initial=0.0))

    @cached_property
    def trace(self) -> FunnelTrace:
        """What each stage of the funnel handed to the next."""
        found, retriever, filters = self._traced, self.retriever, self._filters
        rows = found["candidates"]
        merged = not filters and (len(retriever.proposers) > 1 or retriever.proposers[0] != TOWER)
        return FunnelTrace(
            truth=self.asked[2],
            retrieved=_named("exact", found),
            final=found["final"],
            ann=_named("ann", found),
            candidates=rows,
            scores=found["scores"],
            truth_scores=found["truth_scores"],
            merged=rows if merged else None,
            proposed=found["proposed"],
            without=_named("without", found),
            filters=filters,
            rules=self._rules is not None,
        )

    @cached_property
    def _funnel(self) -> Funnel:
        return Funnel(self.trained)

    @cached_property
    def _rules(self) -> ListRules | None:
        """The last stage as it stands when the requests are asked."""
        return self._funnel.rules.at(self.asked_at)

    @property
    def _filters(self) -> bool:
        return self._rules is not None and self._rules.filters

    @cached_property
    def _traced(self) -> Arrays:
        """The arrays of `trace` by name; those of several retrievers as `exact/<name>`, `ann/...`, `without/...`."""
        return shared_out(range(0, len(self.asked[0]), BLOCK), self._trace, _watched("ranking"))

    def _trace(self, start: int) -> Arrays:
        """The trace of the requests of one block."""
        funnel, retriever, rules, filters = self._funnel, self.retriever, self._rules, self._filters
        users, _, truth = self.asked
        count = self.trained.config.retrieval.num_candidates
        depth = self.trained.config.evaluation.list_k
        allowed = None if rules is None else rules.allowed
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
        theirs = slice(truth.ptr[start], truth.ptr[start + len(block)])
        missing = truth.users[theirs] - start, truth.items[theirs]
        found: Arrays = {
            "final": funnel.shown(verdict, depth, block, int(self.part), rules, allowed, excluded).rows,
            "candidates": part.rows,
            "proposed": part.proposed,
            "scores": verdict.scores,
            "truth_scores": self._truth_scores(funnel, block, answers, verdict, *missing),
        }
        lists = dict(answers.lists)
        if len(retriever.proposers) > 1 and not filters:
            for name in lists:
                others = {other: lists[other] for other in lists if other != name}
                found[f"without/{name}"] = retriever.joined(others).rows
        if retriever.index is not None and TOWER in lists:
            found[f"ann/{TOWER}"] = lists[TOWER]
            lists[TOWER] = retriever.propose(TOWER, answers.queries, answers.histories, count, exact=True)
        return found | {f"exact/{name}": rows for name, rows in lists.items()}

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
        ranker, dataset = self.trained.ranker, self.trained.dataset
        assert ranker is not None
        rows = dataset.rows(self.part)
        starts = range(0, len(rows), SCORE_ROWS)
        if not starts:
            return {}
        return shared_out(starts, lambda start: score_rows(ranker, dataset, rows[start : start + SCORE_ROWS]))

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


def _named(group: str, arrays: Arrays) -> dict[str, AnyArray]:
    """The arrays of a group by their own names."""
    return {name.removeprefix(f"{group}/"): rows for name, rows in arrays.items() if name.startswith(f"{group}/")}


def _watched(doing: str) -> Callable[[list[int]], Iterator[int]]:
    """A bar over the blocks of this process's share."""
    return lambda blocks: track(blocks, doing, len(blocks))
