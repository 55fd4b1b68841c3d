"""What those who run a service may look up: whom it knows, and what it knows that somebody did."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass as plain_dataclass
from itertools import islice
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from ..data.dataset import Dataset
from ..data.live import LiveDataset
from .answers import Answered
from .errors import Flaw, NotFoundError
from .requests import CONFIG, Asked, RawId, Text

Limit = Annotated[int, Field(strict=True, ge=1)]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class UsersRequest(Asked):
    """Ids of users, in order."""

    prefix: Text = ""
    """How they begin."""

    after: Text = ""
    """Only those behind this one: the last of the page before."""

    limit: Limit = 20
    """How many."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class HistoryRequest(Asked):
    """What a user did."""

    user: RawId
    """Raw id."""

    limit: Limit = 100
    """How many events, the newest first."""


class UserEvent(TypedDict):
    """An event of a user: `item` is null where the catalogue lacks it, `time` in seconds where it is known."""

    item: str | None
    title: str | None
    time: float | None
    labels: dict[str, float]


@plain_dataclass(frozen=True, kw_only=True)
class UsersAnswer(Answered):
    """Whom a run knows.

    Attributes:
        users: raw ids, in order of their code points.
        after: asks for the next ones; null where there are no more.
    """

    users: list[str]
    after: str | None


@plain_dataclass(frozen=True, kw_only=True)
class HistoryAnswer(Answered):
    """What a user did.

    Attributes:
        user: raw id.
        known: whether the run stores them; others are known by what was told since.
        events: the newest first.
        total: of all that is known.
    """

    user: str
    known: bool
    events: list[UserEvent]
    total: int


def users(dataset: Dataset, request: UsersRequest) -> dict[str, Any]:
    """The keys of a `UsersAnswer` that are its own."""
    found = list(islice(_named(dataset, request), request.limit + 1))
    more = len(found) > request.limit
    return {"users": found[: request.limit], "after": found[request.limit - 1] if more else None}


def _named(dataset: Dataset, request: UsersRequest) -> Iterator[str]:
    stored = dataset.user_ids.beginning(request.prefix, request.after)
    if not isinstance(dataset, LiveDataset):
        return stored
    live = dataset.live
    since = sorted(name for name in live.strangers if name.startswith(request.prefix) and name > request.after)
    return heapq.merge((name for name in stored if name not in live.forgotten), since)


def history(dataset: Dataset, request: HistoryRequest) -> dict[str, Any]:
    """The keys of a `HistoryAnswer` that are its own.

    Raises:
        NotFoundError: nothing is known of the user.
    """
    known = dataset.known(request.user)
    told = isinstance(dataset, LiveDataset) and request.user in dataset.live.strangers
    if known.row < 0 and not told:
        raise NotFoundError([Flaw("/user", "nothing is known of this user; GET /v1/users lists those that are")])
    rows = known.events.take(slice(None, None, -1)).take(slice(0, request.limit))
    names = dataset.task_names
    events = []
    for item, time, labels, mask in zip(*(rows[name] for name in ("items", "times", "labels", "mask")), strict=True):
        there = 0 <= item < dataset.num_catalogue
        told_labels = {name: float(labels[place]) for place, name in enumerate(names) if mask[place]}
        events.append(
            UserEvent(
                item=str(dataset.item_ids[item]) if there else None,
                title=str(dataset.titles[item]) if there else None,
                time=float(time) if math.isfinite(time) else None,
                labels=told_labels,
            )
        )
    return {"user": request.user, "known": known.row >= 0, "events": events, "total": len(known.events)}
