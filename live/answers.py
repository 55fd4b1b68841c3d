"""What a service answers, as frozen dataclasses; `to_json()` is the JSON of the command line and of HTTP."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NotRequired

from typing_extensions import TypedDict

Json = dict[str, Any]


class Timings(TypedDict):
    """Milliseconds spent on a request; those of a block are shared evenly among its requests."""

    retrieve: float
    rank: float
    total: float


class RunVersion(TypedDict):
    """Which run answered, and in which version."""

    name: str
    version: str


class RecommendedItem(TypedDict):
    """An item in its place."""

    item: str
    title: str
    score: float | None
    tasks: dict[str, float]
    sources: list[str]
    slot: int
    pinned: bool
    explored: bool
    propensity: float | None
    token: str | None
    why: NotRequired[dict[str, Any]]


class SimilarItem(TypedDict):
    """An item like the one asked about."""

    item: str
    title: str
    score: float
    sources: list[str]


class SimilarList(TypedDict):
    """What is like one item."""

    item: str
    title: str
    items: list[SimilarItem]


class ScoredItem(TypedDict):
    """An item with what the ranker says of it; `score` is null where the run does not know it."""

    item: str
    known: bool
    score: float | None
    tasks: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What every answer says.

    Attributes:
        request_id: that of the request, or one that was made for it.
        run: which run answered, and in which version.
        position: of the last event that the answer knows; null where no live events are kept.
        stale: whether later events were acknowledged that the answer does not know.
    """

    request_id: str
    run: RunVersion
    position: int | None = None
    stale: bool = False

    def to_json(self) -> Json:
        """The contract's JSON; optional keys that say nothing are left out."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if value is not None or name not in self._optional}

    @property
    def _optional(self) -> frozenset[str]:
        return frozenset({"unknown"})


@dataclass(frozen=True, kw_only=True)
class Answer(Answered):
    """What somebody is recommended.

    Attributes:
        user: raw id; null for somebody anonymous.
        known: whether anything is stored of them.
        rung: what the answer rests on: `history`, `features`, `segment` or `popular`.
        items: best first. `propensity` is null where the place was not drawn; `token` is sent back with the event
            (`live.tokens`). With `explain`, `why` says what rules did to the place: `rules` (pin, explore, boost) and
            `by_score`, the place by score alone.
        candidates: how many items were ranked.
        eligible: how many items pass the filters and are new to the user.
        short: how many of the k items asked for do not exist.
        timings_ms: of the work, without waiting.
        rules: hash of the last stage; null where it does nothing.
        relaxed: rules that gave way.
        cursor: asks for the next items; null where there are none, or the service gives no pages.
        unknown: what the request says and the run knows nothing of: `history`, `features`, `context`, `allow`.
    """

    user: str | None
    known: bool
    rung: str
    items: list[RecommendedItem]
    candidates: int
    eligible: int
    short: int
    timings_ms: Timings
    rules: str | None = None
    relaxed: list[str]
    cursor: str | None = None
    unknown: dict[str, list[str]] | None = None

    def to_json(self) -> Json:
        """See `Answered.to_json`; first whom it is for and what they get."""
        whole = super().to_json()
        return {name: whole[name] for name in ("user", "known", "rung", "items")} | whole


@dataclass(frozen=True, kw_only=True)
class SimilarAnswer(Answered):
    """What is like given items.

    Attributes:
        seeds: a list for each item asked about that the run knows, in the order asked.
        unknown: items asked about that it does not know.
    """

    seeds: list[SimilarList]
    unknown: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class ItemAnswer(Answered):
    """What a run knows of an item.

    Attributes:
        item: raw id.
        title: what people call it.
        available: whether lists may name it.
        columns: column -> value, as the items table or a later word told it.
    """

    item: str
    title: str
    available: bool
    columns: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ScoreAnswer(Answered):
    """What the ranker says of given items.

    Attributes:
        user: raw id; null for somebody anonymous.
        known: whether anything is stored of them.
        items: in the order asked.
        unknown: see `Answer`.
    """

    user: str | None
    known: bool
    items: list[ScoredItem]
    unknown: dict[str, list[str]] | None = None
