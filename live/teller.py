"""Everything that a running service can be told, checked by the run's schema and appended to the log."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..base.errors import ConfigError
from ..data.dataset import Dataset
from ..data.encoding.subjects import encode_subjects
from ..data.encoding.told_events import EventReader
from ..data.encoding.told_items import encode_items
from ..data.ids import id_text
from ..data.subject import Subject, raw_text
from .log.base import DUPLICATE, Kind, LogRow, StateLog, new_id
from .requests import Event, Receipt
from .tokens import Tokens
from .told import event_rows


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
        """See `Keeping.put_items`."""
        config, rows = self.dataset.config, []
        for given in items:
            columns = {("item" if name == config.item else str(name)): value for name, value in given.items()}
            item, available = columns.pop("item", None), columns.pop("available", True)
            if item is None:
                raise ConfigError("an item has no id; give every item one, under item")
            if not isinstance(available, bool):
                raise ConfigError("available is true or false")
            encode_items(self.dataset, [{config.item: item, **columns}])
            body = {"columns": self._texts(columns, "item"), "available": available}
            rows.append(_row("item_put", body, item=id_text(item)))
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
