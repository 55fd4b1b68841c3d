"""Answers of the funnel as arrays, and the two shapes people read: the command line's JSON and a data frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..base.arrays import F32, F64, I64, Bool
from ..data.dataset import Dataset
from ..data.ids import TEXT, ids_as_given
from .ladder import Rung

if TYPE_CHECKING:
    import pandas as pd

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Recommendations:
    """What B users are recommended, k items each.

    Attributes:
        dataset: for ids and titles.
        sources: S names of who may propose an item.
        users: raw ids, as they were asked for.
        user_rows: int64 [B]; -1 for a user nobody knows.
        rungs: what each answer rests on.
        rows: int64 [B, k] item rows, best first; -1 pads where no more items are eligible.
        scores: float64 [B, k], comparable within a user; NaN at pads.
        tasks: task -> float32 [B, k] probability or value; NaN where the ranker was not asked, and at pads.
        proposed: bool [B, k, S], who proposed the item.
        candidates: int64 [B], how many items were ranked.
        eligible: int64 [B], how many items are allowed and were not taken by the user before.
        seconds: float64 [B, 2] of retrieving and of ranking; those of a block are shared evenly among its users.
        unknown: of each user, what the request says and the run knows nothing of: `history`, `features` or `context` ->
            raw values; None where no request said anything.
        propensities: float64 [B, k], probability with which a drawn item stands in its place, NaN where none was drawn;
            None without rules (`arrange.stage.Shown`).
        among: int64 [B, k], how many items a place was drawn from, 0 where none was; None without rules.
        pinned: bool [B, k], whether the place is the item's own; None without rules.
        boosts: float64 [B, k], what the rules multiplied the score by; None without rules.
        by_score: int64 [B, k], place of the item by score alone, from 1, and 0 where it was no candidate; None without
            rules.
        relaxed: of each user the rules that gave way; None without rules.
        reasons: per user and item the nearest items of the history; None where nobody asked why.
    """

    dataset: Dataset
    sources: tuple[str, ...]
    users: tuple[Any, ...]
    user_rows: I64
    rungs: tuple[Rung, ...]
    rows: I64
    scores: F64
    tasks: dict[str, F32]
    proposed: Bool
    candidates: I64
    eligible: I64
    seconds: F64
    unknown: tuple[Mapping[str, Sequence[str]], ...] | None = None
    reasons: tuple[Sequence[Sequence[Json]], ...] | None = None
    propensities: F64 | None = None
    among: I64 | None = None
    pinned: Bool | None = None
    boosts: F64 | None = None
    by_score: I64 | None = None
    relaxed: tuple[tuple[str, ...], ...] | None = None

    def __len__(self) -> int:
        return len(self.users)

    @property
    def counts(self) -> I64:
        """How many items each user gets, int64 [B]; below k only where no more are eligible."""
        return np.asarray((self.rows >= 0).sum(1), dtype=np.int64)

    @classmethod
    def gathered(cls, blocks: Sequence[Self], order: I64) -> Self:
        """Blocks of answers as one.

        Args:
            blocks: answers of the same run; their tasks may differ.
            order: int64 [B], place of each user of the result among those of all blocks, one block after the other.
        """
        first = blocks[0]
        tasks = dict.fromkeys(name for block in blocks for name in block.tasks)
        joined: dict[str, Any] = {"dataset": first.dataset, "sources": first.sources}
        joined["tasks"] = {
            name: np.concatenate(
                [block.tasks.get(name, np.full(block.rows.shape, np.nan, dtype=np.float32)) for block in blocks]
            )[order]
            for name in tasks
        }
        for field in fields(cls):
            parts = [getattr(block, field.name) for block in blocks]
            if field.name in joined:
                continue
            if isinstance(parts[0], np.ndarray):
                joined[field.name] = np.concatenate(parts)[order]
            elif parts[0] is None:
                joined[field.name] = None
            else:
                listed = [value for part in parts for value in part]
                joined[field.name] = tuple(listed[place] for place in order)
        return cls(**joined)

    def to_json(self) -> list[Json]:
        """One object per user, in the shape of `recsys recommend --json`.

        `user` is null for somebody anonymous, `unknown` is there where a request says what the run knows nothing of.
        `eligible` counts the items that pass the filter and that the user has not taken; `short` says how many of the k
        asked for do not exist.
        """
        return [self._answer(user) for user in range(len(self))]

    def _answer(self, user: int) -> Json:
        items = [self._item(user, column) for column in range(int(self.counts[user]))]
        retrieve, rank = (round(1000 * float(seconds), 3) for seconds in self.seconds[user])
        unknown = self.unknown[user] if self.unknown is not None else {}
        asked = None if self.users[user] is None else str(self.users[user])
        return {
            "user": asked,
            "known": bool(self.user_rows[user] >= 0),
            "rung": str(self.rungs[user]),
            "items": items,
            "candidates": int(self.candidates[user]),
            "eligible": int(self.eligible[user]),
            "short": self.rows.shape[1] - len(items),
            "timings_ms": {"retrieve": retrieve, "rank": rank, "total": round(retrieve + rank, 3)},
            **({"relaxed": list(self.relaxed[user])} if self.relaxed is not None else {}),
            **({"unknown": {name: list(values) for name, values in unknown.items()}} if unknown else {}),
        }

    def _item(self, user: int, column: int) -> Json:
        row = int(self.rows[user, column])
        tasks = {name: float(values[user, column]) for name, values in self.tasks.items()}
        item: Json = {
            "item": self.dataset.item_ids[row],
            "title": self.dataset.titles[row],
            "score": _or_none(self.scores[user, column]),
            "tasks": {name: value for name, value in tasks.items() if not np.isnan(value)},
            "sources": self._sources(user, column),
        }
        if self.propensities is not None and self.pinned is not None:
            drawn = _or_none(self.propensities[user, column])
            item |= {"pinned": bool(self.pinned[user, column]), "explored": drawn is not None, "propensity": drawn}
        if self.reasons is not None:
            item["why"] = {
                "sources": item["sources"],
                "tasks": item["tasks"],
                "rung": str(self.rungs[user]),
                "because_of": list(self.reasons[user][column]),
                **self._marks(user, column),
            }
        return item

    def _marks(self, user: int, column: int) -> Json:
        """What the rules did to an item's place: `rules`, and its place by score alone."""
        if self.pinned is None or self.propensities is None or self.boosts is None or self.by_score is None:
            return {}
        marks = {
            "pin": self.pinned[user, column],
            "explore": np.isfinite(self.propensities[user, column]),
            "boost": self.boosts[user, column] != 1.0,
        }
        place = int(self.by_score[user, column]) or None
        return {"rules": [name for name, is_so in marks.items() if is_so], "by_score": place}

    def _sources(self, user: int, column: int) -> list[str]:
        return [name for name, yes in zip(self.sources, self.proposed[user, column], strict=True) if yes]

    def to_frame(self, titles: bool = False) -> pd.DataFrame:
        """One row per recommended item: `user, rank, item, score`, a column per task, `source`.

        Ids have the type they had in the tables of the training, users the one they were asked for with. `source` joins
        the names of the proposers with "+". Users for whom no item is eligible have no row.

        Args:
            titles: add a column `title` behind `item`.
        """
        import pandas as pd

        user, column = np.nonzero(self.rows >= 0)
        rows = self.rows[user, column]
        ids = np.empty(len(self.users), dtype=object)
        ids[:] = self.users
        table: dict[str, Any] = {
            "user": pd.Series(ids[user]).infer_objects(),
            "rank": column + 1,
            "item": ids_as_given([self.dataset.item_ids[row] for row in rows], self.dataset.id_types.get("item", TEXT)),
        }
        if titles:
            table["title"] = [self.dataset.titles[row] for row in rows]
        table["score"] = self.scores[user, column]
        table |= {name: values[user, column] for name, values in self.tasks.items()}
        table["source"] = ["+".join(self._sources(u, c)) for u, c in zip(user.tolist(), column.tolist(), strict=True)]
        return pd.DataFrame(table)


def _or_none(value: float) -> float | None:
    """A number, or None: an item that was no candidate has no score."""
    return None if np.isnan(value) else float(value)
