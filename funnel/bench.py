"""What a run answers to the test part: the raw material of every number in the evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..data.split import Part
from ..evaluation.funnel import FunnelTrace
from ..evaluation.ragged import IntArray, Ragged
from ..ranking.train import score_rows
from ..retrieval.retriever import TOWER, Retriever
from ..retrieval.train import requests
from ..training.progress import track
from .funnel import Funnel, Ranked
from .stages import Stages

BLOCK = 64
"""Requests ranked at once."""


@dataclass(frozen=True)
class Bench:
    """A run and the requests of one part, answered once and kept.

    Attributes:
        stages: the run in memory.
        part: whose rows are the truth; everything later than its start is unknown to the answers.
        depth: length of the retrievers' lists.
    """

    stages: Stages
    part: Part
    depth: int

    @property
    def retriever(self) -> Retriever:
        """The first stage."""
        assert self.stages.retriever is not None
        return self.stages.retriever

    @cached_property
    def asked(self) -> tuple[NDArray[np.int64], Ragged, Ragged]:
        """User rows [B], items seen before, and items to be found."""
        return requests(self.retriever.data, self.part)

    @cached_property
    def queries(self) -> NDArray[np.float32]:
        """Query vectors, float32 [B, width]."""
        return self.retriever.queries(self.asked[0], int(self.part))

    def lists(self, name: str, exact: bool = True) -> NDArray[np.int64]:
        """One retriever's best items of every request, int64 [B, depth], seen ones left out.

        Args:
            name: `two_tower` or a baseline.
            exact: score everything; otherwise ask the index.
        """
        histories = self.retriever.histories(self.asked[0], int(self.part))
        return self.retriever.propose(name, self.queries, histories, self.depth, exact=exact)

    @cached_property
    def systems(self) -> dict[str, NDArray[np.int64]]:
        """Every retriever's exact lists by name, the towers first."""
        names = [TOWER, *self.retriever.companions]
        return {name: self.lists(name) for name in track(names, "retrieving", len(names))}

    @cached_property
    def trace(self) -> FunnelTrace:
        """What each stage of the funnel handed to the next."""
        funnel = Funnel(self.stages)
        users, _, truth = self.asked
        count = self.stages.config.retrieval.num_candidates
        wanted = self.stages.config.evaluation.list_k
        exact, ann, rows, scores, tops, truth_scores = [], [], [], [], [], []
        starts = range(0, len(users), BLOCK)
        for start in track(starts, "ranking", len(starts)):
            block = users[start : start + BLOCK]
            found = self.retriever.candidates(block, int(self.part), count)
            ranked = funnel.rank(block, found, int(self.part))
            rows.append(ranked.rows)
            scores.append(ranked.scores)
            tops.append(ranked.top(wanted))
            wanted_items = truth.items[truth.ptr[start] : truth.ptr[min(start + BLOCK, len(users))]]
            owner = truth.users[truth.ptr[start] : truth.ptr[min(start + BLOCK, len(users))]] - start
            truth_scores.append(self._truth_scores(funnel, block, ranked, owner, wanted_items))
            histories = self.retriever.histories(block, int(self.part))
            queries = self.queries[start : start + BLOCK]
            lists = {
                n: self.retriever.propose(n, queries, histories, count, exact=True) for n in self.retriever.proposers
            }
            exact.append(lists)
            if self.retriever.index is not None and TOWER in lists:
                ann.append(self.retriever.propose(TOWER, queries, histories, count))
        return FunnelTrace(
            truth,
            {name: np.concatenate([part[name] for part in exact]) for name in self.retriever.proposers},
            np.concatenate(tops),
            {TOWER: np.concatenate(ann)} if ann else {},
            np.concatenate(rows),
            np.concatenate(scores),
            np.concatenate(truth_scores),
        )

    def _truth_scores(
        self,
        funnel: Funnel,
        users: NDArray[np.int64],
        ranked: Ranked,
        owner: IntArray,
        items: IntArray,
    ) -> NDArray[np.float64]:
        """What the ranker gives each relevant item, as if the retriever had put the missed ones last: float64 [E]."""
        column = (ranked.rows[owner] == items[:, None]).argmax(1)
        inside = ranked.rows[owner, column] == items
        out = np.where(inside, ranked.scores[owner, column], -np.inf)
        missed = np.flatnonzero(~inside)
        if not len(missed):
            return out
        nth = np.arange(len(missed)) - np.searchsorted(owner[missed], owner[missed])
        extra = np.full((len(users), int(nth.max()) + 1), -1, dtype=np.int64)
        extra[owner[missed], nth] = items[missed]
        rows = np.concatenate([ranked.rows, extra], axis=1)
        histories = self.retriever.histories(users, int(self.part))
        queries = self.retriever.queries(users, int(self.part))
        proposed = np.zeros((*rows.shape, len(self.retriever.proposers)), dtype=bool)
        found = self.retriever.describe(rows, queries, histories, proposed)
        whole = funnel.rank(users, found, int(self.part))
        out[missed] = whole.scores[owner[missed], ranked.rows.shape[1] + nth]
        return out

    @cached_property
    def row_logits(self) -> dict[str, NDArray[np.float32]]:
        """Logits of every task on the part's logged rows, task -> float32 [R]."""
        assert self.stages.ranker is not None
        return score_rows(self.stages.ranker, self.stages.dataset, self.stages.dataset.rows(self.part))

    def task_rows(self) -> Mapping[str, tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]]:
        """Per binary task: mask [R], labels [R] and raw logits [R] of the part's logged rows."""
        dataset = self.stages.dataset
        rows = dataset.rows(self.part).numpy()
        return {
            task.name: (
                dataset.events.mask[rows, column],
                dataset.events.labels[rows, column].astype(np.float64),
                self.row_logits[task.name].astype(np.float64),
            )
            for column, task in enumerate(dataset.config.tasks)
            if task.kind == "binary" and task.name in self.row_logits
        }
