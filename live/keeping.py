"""What a run is told while it answers: events, features of users, items that come and go; kept in a state."""

from __future__ import annotations

import secrets
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from ..base.errors import ConfigError
from ..data.given import records_of
from ..funnel.funnel import Funnel
from ..funnel.run import TrainedRun
from .answering import Answering
from .asking import Asking
from .export import Exported, export
from .log import Durability, StateLog, open_log
from .overlay import Overlay, overlay_of
from .requests import Event, Receipt
from .teller import Teller
from .tokens import Tokens


class Keeping(Asking):
    """A run that may have a state. With one, what it was told is in the next answer, here and in every process that
    has the same state; without one, nothing is kept and nothing can be told.
    """

    _log: StateLog | None = None
    _overlay: Overlay | None = None
    _version: str = ""

    @cached_property
    def _key(self) -> bytes:
        return secrets.token_bytes(32)

    @property
    @abstractmethod
    def trained(self) -> TrainedRun:
        """The run in memory."""

    @property
    @abstractmethod
    def _settled(self) -> Funnel:
        """Both stages, without a state."""

    @property
    def funnel(self) -> Funnel:
        """Both stages, answering in arrays, with the state as it is now.

        Raises:
            RunError: the run has no retriever.
        """
        return self._now(self._settled)

    def keep(self, state: str | Path | StateLog, durability: Durability = "disk") -> Self:
        """Take what is told into a state, and what it holds into the answers.

        Args:
            state: a folder, which is made where there is none; `redis://...` for a log that several machines share;
                `memory` for a state that ends with the process.
            durability: `disk`: what is acknowledged survives the loss of power; `process`: the end of the process.

        Raises:
            LogUnavailableError: the state cannot be opened.
            RunError: others may read its key.
        """
        self.close()
        self._log = state if isinstance(state, StateLog) else open_log(state, durability)
        self._key = self._log.key()
        return self

    @property
    def tokens(self) -> Tokens:
        """Reads what was shown; by the key of the state, or of this process where there is none."""
        return Tokens(self._key)

    @property
    def log(self) -> StateLog:
        """The ordered log of the state.

        Raises:
            ConfigError: there is no state.
        """
        if self._log is None:
            raise ConfigError('this run keeps nothing it is told; give it a state: recsys.load(run, state="state")')
        return self._log

    @property
    def _teller(self) -> Teller:
        return Teller(self.log, self.trained.dataset, self.tokens)

    @property
    def _recorder(self) -> Teller | None:
        return None if self._log is None else self._teller

    @property
    def position(self) -> int:
        """Of the last thing that was told to the state, by whomever."""
        return self.log.last

    def _now(self, funnel: Funnel) -> Funnel:
        """A run's funnel with the state as it is now; as it is where there is none."""
        if self._log is None:
            return funnel
        if self._overlay is None or self._overlay.of is not funnel:
            self._overlay = overlay_of(funnel, self._log)
        self._overlay.catch_up()
        return self._overlay.funnel

    def _serve(self) -> Answering:
        """See `Asking`."""
        return Answering(self.funnel, version=self._version, key=self._key, overlay=self._overlay)

    def add_events(self, events: Iterable[Event | Mapping[str, Any]], *, skip: bool = False) -> Receipt:
        """Tell what happened. When this returns it is kept, and every later answer knows it.

        Late events take their place by their time; an item or a user that the run does not know gets a row at the next
        training. An event with the token of a shown item joins the row of the showing, and has the propensity that the
        token says.

        Args:
            events: `recsys.Event`s or mappings: `user`, `item`, and where known `time` (now otherwise), `labels` and
                columns of the events table.
            skip: keep the good ones where some are wrong; all or none otherwise.

        Returns:
            How many were kept and how many were known already, and the position of the last; `refused` of those left
            out.

        Raises:
            ConfigError: an event has a column that the run's data has not, names no user or item, lies ahead of the
                clock, or has a token that no answer gave; or there is no state.
            DataError: a value is not what the schema says.
            LogUnavailableError: the state cannot be written now; nothing was kept.
        """
        return self._teller.events(events, skip=skip)

    def put_user(self, user: Any, features: Mapping[str, Any]) -> Receipt:
        """Tell the features of a user: columns of the users table, which override what is stored from now on.

        Raises:
            ConfigError: the run reads no such column, or there is no state.
            DataError: a value is not what the schema says.
        """
        return self._teller.user(user, features)

    def forget_user(self, user: Any) -> Receipt:
        """Answer a user as somebody unknown from now on, and erase what the state holds of them.

        Runs that were trained with the user's events keep what they learned.
        """
        return self._teller.forgotten(user)

    def upsert_items(self, items: Any) -> Receipt:
        """Tell whole rows of the items table: new items, and known ones that changed. The next answer knows them.

        A new item is encoded by the run's encoders, and the row of its id begins at the mean of the items that share
        its content, as in a training that goes on from the run. What the run learned of an id stays. Its counts, and
        what the companions know of it, wait for the next training on an export of the state.

        Args:
            items: a table, or mappings with the id under `item`, and columns of the items table: a column that is not
                given is missing. `available: false` hides an item and keeps it; where nothing else is said, what is
                known of the item stays. A deleted item comes back.

        Raises:
            ConfigError: the run keeps no such column of items, an item has no id, or there is no state.
            DataError: a value is not what the schema says.
        """
        return self._teller.items(records_of(items))

    def delete_items(self, items: Iterable[Any]) -> Receipt:
        """Name items in no list from now on; histories still know them. Ids the run does not know are no error."""
        return self._teller.deleted(items)

    def export_state(self, out: str | Path) -> Exported:
        """Write what was told as tables for the next training: `train(events=, source=)` goes on with them."""
        told = self.trained.log
        after = int(told["last"]) if told is not None and told["log"] == self.log.log_id else 0
        return export(self.log, self.trained.dataset.config, Path(out), after)

    def close(self) -> None:
        """See `Asking.close`; a state stays open."""
        super().close()
        self._overlay = None
