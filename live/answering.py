"""One loaded run as it answers requests: a block of them at a time, each as if it had been asked alone."""

from __future__ import annotations

import copy
import hashlib
import secrets
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from ..base.arrays import I64
from ..base.errors import ConfigError, DataError, RecsysError
from ..base.ragged import Ragged
from ..configs.rules import RulesConfig
from ..data.encoding.attributes import value_of
from ..data.encoding.subjects import SubjectDataset, subject_of
from ..data.hashing import U64, text_hashes
from ..funnel.funnel import Funnel
from ..funnel.similar import similar_items
from ..retrieval.filters import parse_filter
from ..retrieval.index.bitmap import Bitmap
from ..retrieval.seen import SeenConfig
from . import lookups
from .answers import Answer, ItemAnswer, RecommendedItem, RunVersion, ScoreAnswer, ScoredItem, SimilarAnswer
from .cursors import MOST, Cursor, read_cursor
from .errors import Flaw, NotFoundError, RequestError
from .lookups import HistoryAnswer, HistoryRequest, UsersAnswer, UsersRequest
from .overlay import Overlay
from .requests import Asked, AskedOf, ItemRequest, Request, ScoreRequest, SimilarRequest
from .tokens import Tokens

CONDITIONS = 256
"""Conditions whose items are kept."""
POLICIES = 16
"""Policies of what is seen that requests name and whose events are kept."""

_PLACES = {
    "context": "/context",
    "user features": "/features",
    "columns of a history event": "/history",
    "history": "/history",
}
"""How a sentence about what a subject brings begins -> where in the request that stands."""


@dataclass(frozen=True)
class _Like:
    """Requests that are one call of the funnel."""

    k: int
    where: str
    allow: tuple[str, ...] | None
    exclude: tuple[str, ...]
    rules: str
    explore: bool
    seen: SeenConfig | None
    explain: bool
    cursor: str | None


class Answering:
    """A run that answers requests.

    Args:
        funnel: both stages.
        name: of the run, as answers give it.
        version: of the run, as answers give it.
        key: signs cursors and tokens and seeds draws (`tokens.kept_key`); whoever has it reads those of others. A key
            of its own when None.
        overlay: live state, whose funnel this is; None where the run keeps none.
    """

    def __init__(
        self,
        funnel: Funnel,
        name: str = "main",
        version: str = "",
        key: bytes | None = None,
        overlay: Overlay | None = None,
    ) -> None:
        self.funnel, self.overlay = funnel, overlay
        self.key = key or secrets.token_bytes(32)
        self.tokens = Tokens(self.key)
        self.run = RunVersion(name=name, version=version)
        self.rules = rules_hash(funnel.rules.config)
        self._passing = lru_cache(CONDITIONS)(self._passing_items)
        self._ladder = funnel.ladder
        self._seen_by = lru_cache(POLICIES)(self._ladder.seen_by)
        self._stages = {("run", True): funnel.rules}
        self._changes = 0 if overlay is None else overlay.changes

    def catch_up(self) -> None:
        """Take in what happened since the last block; a run without live state has nothing to take in."""
        if self.overlay is None:
            return
        self.overlay.catch_up()
        if self.overlay.changes != self._changes:  # what is kept of the items is of others
            self._changes = self.overlay.changes
            self._passing.cache_clear()
            if self._ladder is not self.funnel.ladder:
                self._ladder = self.funnel.ladder
                self._seen_by = lru_cache(POLICIES)(self._ladder.seen_by)
            self._stages = {("run", True): self.funnel.rules}
            self.__dict__.pop("_hashes", None)

    def answer(self, requests: Sequence[Request]) -> list[Answer | RecsysError]:
        """Answers in the order asked; an error in the place of a request that has none.

        A request gets the items it would get alone, and the error of one is of no concern to the others.
        """
        found: list[Answer | RecsysError | None] = [None] * len(requests)
        alike: dict[_Like, list[int]] = {}
        for place, asked in enumerate(requests):
            like = _Like(
                asked.k,
                asked.where,
                asked.allow,
                asked.exclude,
                asked.rules,
                asked.explore,
                asked.seen,
                asked.explain,
                asked.cursor,
            )
            alike.setdefault(like, []).append(place)
        for like, places in alike.items():
            answers = self._answered(like, [requests[place] for place in places])
            for place, answer in zip(places, answers, strict=True):
                found[place] = answer
        return [answer for answer in found if answer is not None]

    def _answered(self, like: _Like, requests: Sequence[Request]) -> list[Answer | RecsysError]:
        try:
            return [*self._recommended(like, requests)]
        except RecsysError as error:
            if len(requests) == 1:
                return [_placed(error)]
            return [answer for request in requests for answer in self._answered(like, [request])]

    def _recommended(self, like: _Like, requests: Sequence[Request]) -> list[Answer]:
        size = self.funnel.dataset.known_items
        if like.k > size:
            raise RequestError([Flaw("/k", f"found {like.k}, expected at most the {size} items of the catalogue")])
        before = None if like.cursor is None else read_cursor(like.cursor, self.key)
        above = None if before is None else self._rows_of_hashes(before.given)
        allowed, missing = self._allowed(like.where, like.allow, like.exclude, above)
        signed = [self._signed(request) for request in requests]
        if before is not None:
            for own, request in zip(signed, requests, strict=True):
                own["request_id"] = request.request_id or before.request_id
        page = 0 if before is None else before.page
        # A subject who brings nothing is a stored user or somebody nobody knows: the funnel takes their id.
        answers = self._stage(like).recommend(
            [request.subject for request in requests],
            like.k,
            explain=like.explain,
            allowed=allowed,
            seeds=[self.tokens.seed(own["request_id"], page) for own in signed],
            above=above,
        )
        nowhere = np.zeros(answers.rows.shape, dtype=np.int64)
        among = nowhere if answers.among is None else answers.among
        return [
            self._answer(own, content, missing, before, counts)
            for own, content, counts in zip(signed, answers.to_json(), among.tolist(), strict=True)
        ]

    def _answer(
        self,
        signed: dict[str, Any],
        content: dict[str, Any],
        missing: list[str],
        before: Cursor | None,
        among: Sequence[int],
    ) -> Answer:
        unknown = {**content.pop("unknown", {}), **({"allow": missing} if missing else {})}
        given = np.empty(0, dtype=np.uint64) if before is None else before.given
        items: list[RecommendedItem] = []
        now = time.time()
        for slot, item in enumerate(content.pop("items"), start=len(given) + 1):
            propensity, drawn_among = item.get("propensity"), among[slot - 1 - len(given)]
            why = {"why": item.pop("why")} if "why" in item else {}
            item |= {
                "slot": slot,
                "pinned": item.get("pinned", False),
                "explored": item.get("explored", False),
                "propensity": propensity,
                "token": self.tokens.sign(
                    signed["request_id"], item["item"], slot, propensity, drawn_among, self.run["version"], now
                ),
                **why,
            }
            items.append(item)
        cursor = None
        if not content["short"] and len(given) + len(items) <= MOST:
            hashes = text_hashes(pa.array([item["item"] for item in items], pa.string()))
            page = 1 if before is None else before.page + 1
            cursor = Cursor(signed["request_id"], page, np.concatenate([given, hashes])).text(self.key)
        return Answer(
            items=items,
            relaxed=content.pop("relaxed", []),
            unknown=unknown or None,
            rules=self.rules,
            cursor=cursor,
            position=None if self.overlay is None else self.overlay.position,
            stale=self.overlay is not None and self.overlay.stale,
            **signed,
            **content,
        )

    @cached_property
    def _hashes(self) -> tuple[U64, I64]:
        """Hashes of the catalogue's ids, ascending, and the row of each."""
        data = self.funnel.dataset
        hashes = text_hashes(data.item_ids[: data.num_catalogue].array.cast(pa.string()))
        order = np.argsort(hashes, kind="stable")
        return hashes[order], order

    def _rows_of_hashes(self, given: U64) -> I64:
        """Rows of items that the catalogue still has, in the order given."""
        hashes, rows = self._hashes
        at = np.minimum(np.searchsorted(hashes, given), len(hashes) - 1)
        return np.asarray(rows[at][hashes[at] == given], dtype=np.int64)

    def similar(self, request: SimilarRequest) -> SimilarAnswer:
        """Items like other items.

        Raises:
            NotFoundError: the run knows none of the items.
            RequestError: the condition is none, k is not below the catalogue, or the run lacks what `by` asks for.
        """
        data = self.funnel.dataset
        known = [item for item in request.items if self._row(item) >= 0]
        if not known:
            flaws = [
                Flaw(f"/items/{place}", "the catalogue has no such item; give one of it")
                for place in range(len(request.items))
            ]
            raise NotFoundError(flaws)
        if request.k >= data.known_items:
            raise RequestError([Flaw("/k", f"found {request.k}, expected less than the {data.known_items} items")])
        allowed, _ = self._allowed(request.where, None, request.exclude, self._seen(request.user))
        try:
            named = self.funnel.unblocked(allowed)
            found = similar_items(data, self.funnel.retriever, known, request.k, request.by, named)
        except ConfigError as error:
            raise RequestError([Flaw("/by", str(error))], str(error)) from error
        unknown = [item for item in request.items if self._row(item) < 0]
        seeds: list[Any] = found.to_json()
        return SimilarAnswer(seeds=seeds, unknown=unknown or None, **self._signed(request))

    def item(self, request: ItemRequest) -> ItemAnswer:
        """What is known of an item.

        Raises:
            NotFoundError: the run knows no such item.
        """
        row, data = self._row(request.item), self.funnel.dataset
        if row < 0:
            raise NotFoundError([Flaw("", "the catalogue has no such item; tell it, or give one of it")])
        there = self.overlay is None or bool(self.overlay.items.living[row])
        columns = {name: value_of(attribute, row) for name, attribute in data.attributes.items()}
        title = data.titles[row]
        return ItemAnswer(item=request.item, title=title, available=there, columns=columns, **self._signed(request))

    def score(self, request: ScoreRequest) -> ScoreAnswer:
        """What the ranker says of given items for somebody.

        Raises:
            RequestError: a value that the request brings is wrong.
        """
        funnel, user_row, known, unknown = self._standing(request)
        rows = np.array([self._row(item) for item in request.items], dtype=np.int64)
        distinct, places = np.unique(rows[rows >= 0], return_inverse=True)
        items = [ScoredItem(item=item, known=False, score=None, tasks={}) for item in request.items]
        if len(distinct):
            ranked = funnel.judge(np.array([user_row]), distinct[None, :])
            for place, column in zip(np.flatnonzero(rows >= 0).tolist(), places.tolist(), strict=True):
                tasks = {name: float(values[0, column]) for name, values in ranked.tasks.items()}
                score = float(ranked.scores[0, column])
                items[place] = ScoredItem(item=request.items[place], known=True, score=score, tasks=tasks)
        return ScoreAnswer(user=request.user, known=known, items=items, unknown=unknown, **self._signed(request))

    def users(self, request: UsersRequest) -> UsersAnswer:
        """Whom the run knows."""
        return UsersAnswer(**lookups.users(self.funnel.dataset, request), **self._signed(request))

    def history(self, request: HistoryRequest) -> HistoryAnswer:
        """What somebody did.

        Raises:
            NotFoundError: nothing is known of them.
        """
        return HistoryAnswer(**lookups.history(self.funnel.dataset, request), **self._signed(request))

    def _standing(self, request: AskedOf) -> tuple[Funnel, int, bool, dict[str, list[str]] | None]:
        """A funnel that knows the one asked about, their row in it, whether they are stored, what is unknown."""
        rows = self.funnel.dataset.user_rows
        stored = rows.get(request.user, -1) if request.user is not None else -1
        subject = subject_of(self.funnel.dataset, request.subject)
        if stored >= 0 and subject is None:
            return self.funnel, stored, True, None
        try:
            funnel, row = self.funnel.standing(subject or request.subject)
        except RecsysError as error:
            raise _placed(error) from error
        assert isinstance(funnel.dataset, SubjectDataset)
        told = funnel.dataset.unknown[row]
        return funnel, row, stored >= 0, {name: list(values) for name, values in told.items()} or None

    def _signed(self, request: Asked) -> dict[str, Any]:
        return {"request_id": request.request_id or uuid.uuid4().hex, "run": self.run}

    def _row(self, item: str) -> int:
        """Row of an item of the catalogue, -1 where it is none."""
        row = self.funnel.dataset.item_rows.get(item, -1)
        return row if row < self.funnel.dataset.num_catalogue else -1

    def _rows(self, items: Sequence[str]) -> I64:
        """Rows of those items that the catalogue has."""
        rows = np.array([self._row(item) for item in items], dtype=np.int64)
        return np.asarray(rows[rows >= 0])

    def _allowed(
        self, where: str, allow: Sequence[str] | None, exclude: Sequence[str], seen: I64 | None = None
    ) -> tuple[Bitmap | None, list[str]]:
        """Items that may be named, None for all, and those of `allow` that the catalogue lacks."""
        size = self.funnel.dataset.num_catalogue
        conditions = [self._passing(where)] if where else []
        if allow is not None:
            conditions.append(Bitmap.from_rows(self._rows(allow), size))
        barred = self._rows(exclude) if seen is None else np.concatenate([self._rows(exclude), seen])
        if len(barred):
            conditions.append(~Bitmap.from_rows(barred, size))
        if not conditions:
            return None, []
        both = conditions[0]
        for other in conditions[1:]:
            both = both & other
        return both, [item for item in allow or () if self._row(item) < 0]

    def _passing_items(self, where: str) -> Bitmap:
        try:
            return parse_filter(where).bitmap(self.funnel.dataset.item_columns)
        except ConfigError as error:
            raise RequestError([Flaw("/where", str(error))], str(error)) from None

    def _seen(self, user: str | None) -> I64:
        """What a user is not recommended again; nothing of somebody unknown."""
        if user is None:
            return np.empty(0, dtype=np.int64)
        funnel, row = self.funnel, self.funnel.dataset.user_rows.get(user, -1)
        if (subject := subject_of(funnel.dataset, user)) is not None:
            funnel, row = funnel.standing(subject)
        seen: Ragged = funnel.ladder.seen(np.array([row]))
        return np.unique(seen.items)

    def _stage(self, like: _Like) -> Funnel:
        """The funnel with the last stage that a request wants."""
        key, stage = (like.rules, like.explore), self.funnel.rules
        if key not in self._stages:
            rules = stage.config.filters if like.rules == "none" else stage.config.unexplored
            self._stages[key] = stage.changed(rules)
        found = copy.copy(self.funnel)
        found.rules = self._stages[key]
        if like.seen is not None:
            try:
                found.ladder = found.ladder.leaving_out(self._seen_by(like.seen))
            except ConfigError as error:
                raise RequestError([Flaw("/seen", str(error))], str(error)) from None
            found.retriever = found.ladder.retriever
        return found


def rules_hash(rules: RulesConfig) -> str | None:
    """Twelve digits that name a last stage; None for one that does nothing."""
    return None if rules.idle else hashlib.sha256(rules.model_dump_json().encode()).hexdigest()[:12]


def _placed(error: RecsysError) -> RecsysError:
    """An error of the layers below with its place in the request."""
    if isinstance(error, ConfigError | DataError) and not isinstance(error, RequestError):
        sentence = str(error)
        pointer = next((place for words, place in _PLACES.items() if sentence.startswith(words)), "")
        return RequestError([Flaw(pointer, sentence)], sentence)
    return error
