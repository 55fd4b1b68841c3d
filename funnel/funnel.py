"""The whole funnel for given users: retrieve -> leave out what was seen -> rank -> blend -> the best k.

No request looks at another one, so an answer does not depend on who else was asked about.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..artifacts.folder import open_run
from ..base.arrays import F32, F64, I64
from ..base.errors import ConfigError, RunError
from ..data.dataset import NOW
from ..ranking.blend import BlendConfig, blend
from ..ranking.blend_search import searches
from ..ranking.probabilities import task_probabilities
from ..ranking.requests import SELECT, RequestRanker, request_batch
from ..retrieval.index.base import check_allowed
from ..retrieval.index.bitmap import Bitmap
from ..retrieval.retriever import CandidateSet
from .ladder import POPULAR, Ladder, Offer, Rung
from .recommendations import Asked, Explainer, Timings, answer, item
from .run import Stages, load_stages
from .selection import select_items

BLOCK = 32
"""Users answered at once; larger blocks leave the processor's caches."""


@dataclass(frozen=True)
class Ranked:
    """Candidates of B requests with the ranker's verdict.

    Attributes:
        rows: int64 [B, C] item rows, -1 pads, in the retriever's order.
        scores: float64 [B, C] blended score, -inf at pads; higher is better.
        tasks: task -> float32 [B, C] probability (value for regression tasks, in the label's own unit; share of the
            request for `select`).
    """

    rows: I64
    scores: F64
    tasks: Mapping[str, F32]

    def order(self) -> I64:
        """Columns from best to worst, int64 [B, C]; ties keep the retriever's order."""
        return np.argsort(-self.scores, axis=1, kind="stable")

    def top(self, k: int) -> I64:
        """Item rows of the best k, int64 [B, k], -1 pads."""
        best = np.take_along_axis(self.rows, self.order()[:, :k], axis=1)
        short = k - best.shape[1]
        return np.pad(best, ((0, 0), (0, short)), constant_values=-1) if short > 0 else best


class Funnel:
    """Both stages of a run, ready to answer.

    Args:
        stages: the run in memory; it must have a retriever.
    """

    def __init__(self, stages: Stages) -> None:
        if stages.retriever is None:
            raise RunError("this run has no retriever, so it cannot recommend; train it with --stage all")
        self.stages = stages
        self.dataset = stages.dataset
        self.retriever = stages.retriever
        self.blend = effective_blend(stages)
        self.ladder = Ladder(self.dataset, self.retriever)
        self.explainer = Explainer(self.dataset, self.retriever)

    @classmethod
    def load(cls, run: Path) -> Funnel:
        """From a run folder."""
        opened = open_run(run)
        try:
            return cls(load_stages(opened))
        except RunError as error:
            raise RunError(f"{run}: {error}") from None

    def warm_up(self) -> None:
        """Answer once and forget it, so that what libraries set up at first use is in no answer's timings."""
        self.recommend(list(self.dataset.user_rows)[:1], min(10, self.retriever.data.num_items))

    def rank(self, users: I64, found: CandidateSet, moment: int) -> Ranked:
        """Score every candidate with every task and blend.

        Args:
            users: int64 [B] user rows.
            found: their candidates [B, C].
            moment: when the requests stand.
        """
        present = found.rows >= 0
        tasks = self._task_logits(users, found, moment)
        probabilities = task_probabilities(tasks, self.dataset.config.tasks, self.stages.calibrators)
        scores = np.where(present, blend(probabilities, self.blend), -np.inf)
        return Ranked(found.rows, scores, probabilities)

    def _task_logits(self, users: I64, found: CandidateSet, moment: int) -> dict[str, F32]:
        model = self.stages.model
        if model is None:
            return {SELECT: found.prior}
        asked = request_batch(self.dataset, moment, users, found.rows, found.features, found.prior)
        with torch.no_grad():
            logits = model(asked if isinstance(model, RequestRanker) else asked.batch)
        return {name: values.view(found.rows.shape).numpy() for name, values in logits.items()}

    def select(
        self, where: str = "", allow: Sequence[str] | None = None, block: Sequence[str] | None = None
    ) -> Bitmap | None:
        """Items to hand to `recommend` as `allowed`; see `selection.select_items`."""
        return select_items(self.dataset, where, allow, block)

    def recommend(
        self, users: Sequence[str], k: int = 10, explain: bool = False, allowed: Bitmap | None = None
    ) -> list[dict[str, Any]]:
        """Answers in the shape of the command line's JSON, one per user, in the order asked.

        Users are computed in blocks: a user gets the same items alone and among others.

        Args:
            users: raw user ids; unknown ones get what is popular.
            k: items per answer.
            explain: add `why` to every item.
            allowed: items that may be named (see `select`); all of the catalogue when None.

        Raises:
            ConfigError: `k` exceeds the catalogue, or the filter speaks about another catalogue.
        """
        size = self.retriever.data.num_items
        if k > size:
            raise ConfigError(f"k={k} exceeds the {size} items of the catalogue; lower k")
        if allowed is not None:
            check_allowed(allowed, size)
        rows = [self.dataset.user_rows.get(str(user), -1) for user in users]
        asked = [
            Asked(str(user), row, self.ladder.rung(row), self.ladder.eligible(row, allowed))
            for user, row in zip(users, rows, strict=True)
        ]
        answers: dict[int, dict[str, Any]] = {}
        for rung in Rung:
            places = [place for place, one in enumerate(asked) if one.rung is rung]
            for start in range(0, len(places), BLOCK):
                block = places[start : start + BLOCK]
                found = self._answers([asked[place] for place in block], rung, k, explain, allowed)
                answers |= zip(block, found, strict=True)
        return [answers[place] for place in range(len(asked))]

    def _answers(
        self, asked: Sequence[Asked], rung: Rung, k: int, explain: bool, allowed: Bitmap | None
    ) -> list[dict[str, Any]]:
        """Answers to users of one rung."""
        started = time.perf_counter()
        if rung is Rung.POPULAR:
            best, shares = self.ladder.popular(k, allowed)
            shown = list(zip(best.tolist(), shares.tolist(), strict=True))
            lists = [[item(self.dataset, row, score, {}, [POPULAR]) for row, score in shown] for _ in asked]
            counts = [len(best)] * len(asked)
            retrieved = time.perf_counter()
        else:
            users = np.array([one.row for one in asked], dtype=np.int64)
            wanted = max(k, self.stages.config.retrieval.num_candidates)
            offer = self.ladder.offer(rung, users, wanted, allowed)
            retrieved = time.perf_counter()
            ranked = self.rank(users, offer.found, NOW)
            order = ranked.order()[:, :k]
            lists = [self._items(ranked, offer, request, order[request]) for request in range(len(asked))]
            counts = (offer.found.rows >= 0).sum(1).tolist()
        if explain:
            for one, items in zip(asked, lists, strict=True):
                for said in items:
                    said["why"] = self.explainer.why(one, self.dataset.item_rows[said["item"]], said)
        share = Timings((retrieved - started) / len(asked), (time.perf_counter() - retrieved) / len(asked))
        told = zip(asked, lists, counts, strict=True)
        return [answer(one, k, items, count, share) for one, items, count in told]

    def _items(self, ranked: Ranked, offer: Offer, request: int, columns: I64) -> list[dict[str, Any]]:
        """One request's candidates in these columns, up to the first pad."""
        items = []
        for column in columns:
            row = int(ranked.rows[request, column])
            if row < 0:
                break
            named = offer.found.proposed[request, column]
            sources = [name for name, yes in zip(offer.sources, named, strict=True) if yes]
            tasks = {name: float(values[request, column]) for name, values in ranked.tasks.items()}
            items.append(item(self.dataset, row, float(ranked.scores[request, column]), tasks, sources))
        return items


def effective_blend(stages: Stages) -> BlendConfig:
    """The configured weights; else those found by search; else `select` alone where the run learned it."""
    config, found = stages.config.blend, stages.found_blend
    if found is not None and searches(config):
        return config.model_copy(update={"weights": dict(found.weights)})
    selects = stages.model is None or isinstance(stages.model, RequestRanker)
    if config.kind != "task" and not config.weights and selects:
        return config.model_copy(update={"weights": {SELECT: 1.0}})
    return config
