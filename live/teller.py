"""Everything that a running service can be told, checked by the run's schema and appended to the log."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base.errors import ConfigError
from ..data.dataset import Dataset
from ..data.encoding.subjects import encode_subjects
from ..data.encoding.told_events import EventReader
from ..data.encoding.told_items import encode_items
from ..data.ids import id_text
from ..data.subject import Subject, raw_text
from .answers import Answer
from .errors import Flaw, RequestError
from .log.base import DUPLICATE, Kind, LogRow, StateLog, new_id
from .requests import Asked, Event, Receipt, Request
from .tokens import Tokens
from .told import event_rows


def check_recorded(request: Asked, teller: Teller | None) -> None:
    """Refuse a request whose answer is to be written down and cannot be.

    Args:
        request: before it is answered.
        teller: writes; None where nothing is kept.

    Raises:
        RequestError: nobody is named, or there is no state.
    """
    if not isinstance(request, Request) or request.record is None:
        return
    if request.user is None:
        raise RequestError([Flaw("/record", "nobody is named whom the items are shown to; name a user")])
    if teller is None:
        raise RequestError([Flaw("/record", "there is no state in which it could be kept; give the run one")])


@dataclass(frozen=True)
class Teller:
    """Tells a log what happens to a run.

    Attributes:
        log: where it is kept.
        dataset: of the run, which knows what columns mean.
        tokens: reads what answers signed; any text names a showing when None.
    """

    log: StateLog
    dataset: Dataset
    tokens: Tokens | None = None

    def events(self, events: Iterable[Event | Mapping[str, Any]], *, skip: bool = False) -> Receipt:
        """See `Keeping.add_events`."""
        checked = event_rows(EventReader(self.dataset.config), list(events), skip=skip, tokens=self.tokens)
        return self._appended(checked.rows, tuple((one.place, one.detail) for one in checked.refused))

    def shown(self, answers: Sequence[tuple[Request, Answer]]) -> Receipt:
        """Write down the items of answers as shown to whom the requests are about.

        Each is an event with the item's token and the request's context, whose binary labels are 0 until an event tells
        more. A repeated request with the same id writes nothing twice.

        Raises:
            LogUnavailableError: the log cannot be written now; nothing was kept.
        """
        config = self.dataset.config
        reader = EventReader(config)
        plain = (task for task in config.tasks if task.kind == "binary" and task.at_least is None and not task.equals)
        labels = {task.source: 0 for task in plain}
        sources = {spec.name: spec.source for spec in config.features if spec.side == "context"}
        told: list[Event] = []
        for request, answer in answers:
            context = {sources.get(name, name): value for name, value in request.context.items()}
            columns = {name: value for name, value in context.items() if name in reader.separators}
            told += [
                Event(
                    user=request.user or "",
                    item=item["item"],
                    id="\x1f".join(["shown", answer.request_id, request.user or "", item["item"]]),
                    token=item["token"],
                    labels=labels,
                    columns=columns,
                )
                for item in answer.items
            ]
        return self._appended(event_rows(reader, told, tokens=self.tokens).rows)

    def user(self, user: Any, features: Mapping[str, Any]) -> Receipt:
        """See `Keeping.put_user`."""
        encode_subjects(self.dataset, [Subject(features=features)], "")
        return self._appended([_row("user_put", {"columns": self._texts(features, "user")}, user=id_text(user))])

    def forgotten(self, user: Any) -> Receipt:
        """See `Keeping.forget_user`."""
        name = id_text(user)
        told = self._appended([_row("forget", {}, user=name)])
        self.log.erase(name)
        return told

    def items(self, items: Iterable[Mapping[str, Any]]) -> Receipt:
        """See `Keeping.upsert_items`."""
        config, rows, whole = self.dataset.config, [], []
        for given in items:
            columns = {("item" if name == config.item else str(name)): value for name, value in given.items()}
            item, available = columns.pop("item", None), columns.pop("available", True)
            if item is None:
                raise ConfigError("an item has no id; give every item one, under item")
            if not isinstance(available, bool | np.bool_):
                raise ConfigError("available is true or false")
            whole.append({config.item: item, **columns})
            body = {"columns": self._texts(columns, "item"), "available": bool(available)}
            rows.append(_row("item_put", body, item=id_text(item)))
        if whole:
            encode_items(self.dataset, whole)
        return self._appended(rows)

    def deleted(self, items: Iterable[Any]) -> Receipt:
        """See `Keeping.delete_items`."""
        return self._appended([_row("item_delete", {}, item=id_text(item)) for item in items])

    def _texts(self, columns: Mapping[str, Any], side: str) -> dict[str, str | None]:
        """Values as the text that a table would hold, by column."""
        specs = {spec.name: spec for spec in self.dataset.config.features if spec.side == side}
        specs |= {spec.source: spec for spec in specs.values()}
        return {
            specs[name].source if name in specs else name: raw_text(
                value, specs[name].separator if name in specs else "|"
            )
            for name, value in columns.items()
        }

    def _appended(self, rows: Sequence[LogRow], refused: tuple[tuple[int, str], ...] = ()) -> Receipt:
        positions = self.log.append(rows)
        kept = [position for position in positions if position != DUPLICATE]
        last = max(kept, default=0) or self.log.last
        return Receipt(len(kept), len(positions) - len(kept), last, refused)


def _row(kind: Kind, body: Mapping[str, Any], *, user: str = "", item: str = "") -> LogRow:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    now = time.time()
    told = text.encode("utf-8", "surrogatepass")
    return LogRow(kind, told, user=user, item=item, time=now, received=now, id=new_id())
