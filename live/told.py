"""Events as rows of the log, and back: checked when they are handed in, kept as the text that a table would hold."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..base.errors import ConfigError, RecsysError
from ..data.encoding.told_events import EventReader, ToldEvent
from ..data.reading.tables import BadRow, BadRows
from .errors import Flaw, RequestError
from .log.base import LogRow, row_id
from .requests import Event, parsed
from .tokens import Exposure, Tokens

MOST = 1000
"""Events of one call."""


@dataclass(frozen=True)
class Refused:
    """An event that was left out.

    Attributes:
        place: among those handed in, from 0.
        detail: what is wrong with it.
    """

    place: int
    detail: str


@dataclass(frozen=True)
class Checked:
    """Events as rows of the log.

    Attributes:
        rows: of those that are right, in order.
        refused: the others.
    """

    rows: list[LogRow]
    refused: list[Refused] = field(default_factory=list)


def event_rows(
    reader: EventReader,
    events: Sequence[Event | Mapping[str, Any]],
    *,
    skip: bool = False,
    tokens: Tokens | None = None,
) -> Checked:
    """Check events and make them rows of the log.

    Args:
        reader: of the run's schema.
        events: what happened.
        skip: leave out events that are wrong, instead of refusing all of them.
        tokens: reads tokens, which say the propensity of what was shown; any text names a showing when None.

    Raises:
        ConfigError: an event has keys or columns that there are not, or names no user or item.
        DataError: a value is not what the schema says.
    """
    told: list[tuple[int, Event, ToldEvent]] = []
    refused: list[Refused] = []
    showing: dict[int, int] = {}
    for place, given in enumerate(events):
        try:
            event = parsed(Event, given)
            shown = None if tokens is None or event.token is None else tokens.read(event.token, event.item)
            told.append((place, event, reader.taken_apart(_columns(reader, event, shown), place)))
            if event.token is not None:
                showing[place] = exposure_of(event.token if shown is None else shown.request, event.item)
        except ConfigError as error:
            if not skip:
                raise placed(error, place) from None
            refused.append(Refused(place, str(error)))
    if not told:
        return Checked([], refused)
    now = time.time()
    bad = BadRows("drop" if skip else "error", may_drop=False)
    times = reader.check([one for *_, one in told], bad, now)
    wrong = _by_row(bad)
    rows = []
    for row, (place, event, one) in enumerate(told):
        if row in wrong:
            refused.append(Refused(place, wrong[row]))
        else:
            rows.append(_row(event, one, showing.get(place, 0), float(times[row]), now))
    return Checked(rows, sorted(refused, key=lambda one: one.place))


def placed(error: RecsysError, place: int) -> RecsysError:
    """A mistake of an event with the place of the event among those handed in."""
    if isinstance(error, RequestError):
        return RequestError([Flaw(f"/{place}{flaw.pointer}", flaw.detail) for flaw in error.flaws])
    return RequestError([Flaw(f"/{place}", str(error))])


def _columns(reader: EventReader, event: Event, shown: Exposure | None) -> dict[str, Any]:
    """An event by the columns of the run's events table; what its token says of the showing is what it says."""
    config = reader.config
    found = {**event.columns, "user": event.user, "item": event.item, "labels": event.labels}
    if event.time is not None:
        found["time"] = event.time
    propensity = event.propensity
    if shown is not None:
        propensity = shown.propensity if config.propensity else None
    for name, value, column in (
        ("weight", event.weight, config.weight),
        ("propensity", propensity, config.propensity),
    ):
        if value is not None:
            if not column:
                raise ConfigError(f"{reader.where}: the run's data has no {name}; set data.{name}, or leave it out")
            found[column] = value
    return found


def _by_row(bad: BadRows) -> dict[int, str]:
    """What is wrong with each row: the first mistake."""
    found: dict[int, str] = {}
    for record in bad.records:
        found.setdefault(int(record.place.split()[-1]) - 1, _sentence(record))
    return found


def _sentence(record: BadRow) -> str:
    return f'column "{record.column}": found {record.found}, expected {record.expected}'


def _row(event: Event, told: ToldEvent, exposure: int, seconds: float, received: float) -> LogRow:
    body: dict[str, Any] = {"columns": dict(told.columns)}
    if exposure:
        body["exposure"] = exposure
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    own = ("id", event.id) if event.id is not None else ("content", told.user, told.item, repr(seconds), text)
    return LogRow(
        "event",
        text.encode("utf-8", "surrogatepass"),
        user=told.user,
        item=told.item,
        time=seconds,
        received=received,
        id=row_id(*own),
    )


def exposure_of(token: str, item: str) -> int:
    """A number that names the showing of an item, from 1."""
    return max(int.from_bytes(row_id("exposure", token, item)[:8], "little"), 1)
