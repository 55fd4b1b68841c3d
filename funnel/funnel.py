"""The whole funnel for given users: retrieve -> leave out what was seen -> rank -> blend -> the best k.

Every request is computed by itself, so an answer does not depend on who else was asked about.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.dataset import NOW
from ..errors import ConfigError, RunError
from ..ranking.blend import BlendConfig, blend
from ..ranking.calibrate import sigmoid
from ..ranking.requests import SELECT, RequestRanker, request_batch
from ..retrieval.baseline_core import Histories
from ..retrieval.retriever import CandidateSet
from .artifacts import open_run
from .stages import Stages, load_stages

POPULAR = "popular"
"""Source of an item nobody's taste was asked for."""
REASONS = 3
"""History items named as the reason for a recommendation."""


@dataclass(frozen=True)
class Ranked:
    """Candidates of B requests with the ranker's verdict.

    Attributes:
        rows: int64 [B, C] item rows, -1 pads, in the retriever's order.
        scores: float64 [B, C] blended score, -inf at pads; higher is better.
        tasks: task -> float32 [B, C] probability (value for regression tasks, in the label's own unit; share of the
            request for `select`).
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float64]
    tasks: Mapping[str, NDArray[np.float32]]

    def order(self) -> NDArray[np.int64]:
        """Columns from best to worst, int64 [B, C]; ties keep the retriever's order."""
        return np.argsort(-self.scores, axis=1, kind="stable")

    def top(self, k: int) -> NDArray[np.int64]:
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
        self.blend = effective_blend(stages.config.blend, self._task_names())

    @classmethod
    def load(cls, run: Path) -> Funnel:
        """From a run folder."""
        opened = open_run(run)
        try:
            return cls(load_stages(opened))
        except RunError as error:
            raise RunError(f"{run}: {error}") from None

    def _task_names(self) -> list[str]:
        model = self.stages.model
        if model is None:
            return [SELECT]
        names = [task.name for task in self.stages.ranker.tasks] if self.stages.ranker is not None else []
        return list(dict.fromkeys([*names, *([SELECT] if isinstance(model, RequestRanker) else [])]))

    def rank(self, users: NDArray[np.int64], found: CandidateSet, moment: int) -> Ranked:
        """Score every candidate with every task and blend.

        Args:
            users: int64 [B] user rows.
            found: their candidates [B, C].
            moment: when the requests stand.
        """
        present = found.rows >= 0
        tasks = self._task_logits(users, found, moment)
        probabilities: dict[str, NDArray[np.float32]] = {}
        specs = {task.name: task for task in self.dataset.config.tasks}
        for name, logits in tasks.items():
            if name == SELECT:
                shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
                probabilities[name] = (shifted / shifted.sum(1, keepdims=True)).astype(np.float32)
            elif name in self.stages.calibrators:
                probabilities[name] = self.stages.calibrators[name](logits).astype(np.float32)
            elif specs[name].kind == "regression":
                probabilities[name] = np.expm1(logits) if specs[name].log1p else logits
            else:
                probabilities[name] = sigmoid(logits).astype(np.float32)
        scores = np.where(present, blend(probabilities, self.blend), -np.inf)
        return Ranked(found.rows, scores, probabilities)

    def _task_logits(
        self, users: NDArray[np.int64], found: CandidateSet, moment: int
    ) -> dict[str, NDArray[np.float32]]:
        model = self.stages.model
        if model is None:
            return {SELECT: found.prior}
        asked = request_batch(self.dataset, moment, users, found.rows, found.features, found.prior)
        with torch.no_grad():
            logits = model(asked if isinstance(model, RequestRanker) else asked.batch)
        return {name: values.view(found.rows.shape).numpy() for name, values in logits.items()}

    def recommend(self, users: Sequence[str], k: int = 10, explain: bool = False) -> list[dict[str, Any]]:
        """Answers in the shape of the command line's JSON, one per user, in the order asked.

        Args:
            users: raw user ids; unknown ones get what is popular.
            k: items per answer.
            explain: add `why` to every item.

        Raises:
            ConfigError: `k` exceeds the catalogue.
        """
        if k > self.retriever.data.num_items:
            raise ConfigError(f"k={k} exceeds the {self.retriever.data.num_items} items of the catalogue; lower k")
        return [self._answer(str(user), k, explain) for user in users]

    def _answer(self, user: str, k: int, explain: bool) -> dict[str, Any]:
        started = time.perf_counter()
        row = self.dataset.user_rows.get(user)
        history = self.retriever.data.history
        if row is None or (history.ptr[row + 1] == history.ptr[row] and not self._knows_by_features()):
            return self._popular(user, row is not None, k, started)
        asked = np.array([row], dtype=np.int64)
        wanted = max(k, self.stages.config.retrieval.num_candidates)
        found = self.retriever.candidates(asked, NOW, wanted)
        retrieved = time.perf_counter()
        ranked = self.rank(asked, found, NOW)
        columns = [int(c) for c in ranked.order()[0, :k] if ranked.rows[0, c] >= 0]
        items = [self._item(ranked, found, column) for column in columns]
        if explain:
            for item, column in zip(items, columns, strict=True):
                item["why"] = self._why(row, int(ranked.rows[0, column]), item)
        done = time.perf_counter()
        return {
            "user": user,
            "known": True,
            "items": items,
            "candidates": int((found.rows >= 0).sum()),
            "timings_ms": _milliseconds(started, retrieved, done),
        }

    def _knows_by_features(self) -> bool:
        """Whether the user tower says something of users without history."""
        return self.retriever.model.user_content is not None

    def _item(self, ranked: Ranked, found: CandidateSet, column: int) -> dict[str, Any]:
        row = int(ranked.rows[0, column])
        sources = [name for name, yes in zip(self.retriever.proposers, found.proposed[0, column], strict=True) if yes]
        return {
            "item": self.dataset.item_ids[row],
            "title": self.dataset.titles[row],
            "score": float(ranked.scores[0, column]),
            "tasks": {name: float(values[0, column]) for name, values in ranked.tasks.items()},
            "sources": sources,
        }

    def _popular(self, user: str, known: bool, k: int, started: float) -> dict[str, Any]:
        nobody = Histories(np.empty(0, dtype=np.int64), np.zeros(2, dtype=np.int64))
        scores = self.retriever.companions["popularity"].score(nobody)[0]
        best = np.argsort(-scores, kind="stable")[:k]
        total = max(float(scores.sum()), 1e-12)
        retrieved = time.perf_counter()
        items = [
            {
                "item": self.dataset.item_ids[row],
                "title": self.dataset.titles[row],
                "score": float(scores[row]) / total,
                "tasks": {},
                "sources": [POPULAR],
            }
            for row in best
        ]
        timings = _milliseconds(started, retrieved, time.perf_counter())
        return {"user": user, "known": known, "items": items, "candidates": len(items), "timings_ms": timings}

    def _why(self, user: int, item: int, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Sources, per-task scores, and the items of the user's history nearest to the item in tower space."""
        history = self.retriever.data.history
        past = np.unique(history.items[history.ptr[user] : history.ptr[user + 1]])
        vectors = self.retriever.item_vectors[:, : self.retriever.model.config.dim]
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        near = unit[past] @ unit[item]
        best = np.argsort(-near, kind="stable")[:REASONS]
        return {
            "sources": answer["sources"],
            "tasks": answer["tasks"],
            "because_of": [
                {
                    "item": self.dataset.item_ids[past[i]],
                    "title": self.dataset.titles[past[i]],
                    "similarity": float(near[i]),
                }
                for i in best
            ],
        }


def effective_blend(config: BlendConfig, tasks: Sequence[str]) -> BlendConfig:
    """The configured blend; `select` alone where no weights are given and the run learned it."""
    if config.kind != "task" and not config.weights and SELECT in tasks:
        return config.model_copy(update={"weights": {SELECT: 1.0}})
    return config


def _milliseconds(started: float, retrieved: float, done: float) -> dict[str, float]:
    return {
        "retrieve": round(1000 * (retrieved - started), 3),
        "rank": round(1000 * (done - retrieved), 3),
        "total": round(1000 * (done - started), 3),
    }
