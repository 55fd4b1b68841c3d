"""What counts as seen: the items that a user is not recommended again, the same in training, evaluation and answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from ..base.arrays import F64, I64
from ..base.errors import ConfigError
from ..base.ragged import Ragged, offsets, spans
from ..base.settings import Settings
from ..data.dataset import NOW, Dataset
from ..data.history import History
from ..data.split import Part

DAY = 86_400.0
Policy = Literal["taken", "shown", "none"]


class SeenConfig(Settings):
    """Which items a user is not recommended again."""

    policy: Policy = "taken"
    """`taken`: items of the user's positive events; those that were only shown return. `shown`: items of any of the
    user's events. `none`: none, so that what was taken may be taken again, and a repeat is an answer to be found."""
    window_days: float | None = Field(default=None, gt=0)
    """Only events of so many days before the request count, so that an item returns afterwards; all when absent. A
    request of an evaluation stands at the part's start under a `time` split, else at its user's last known event; one
    that is answered now stands at the newest event of the log."""
    tasks: tuple[str, ...] = ()
    """For `taken`: an event counts when its label is 1 in any of these binary tasks, instead of `positive`."""

    @model_validator(mode="before")
    @classmethod
    def _policy_alone(cls, value: object) -> object:
        """`seen = "shown"` stands for `seen = { policy = "shown" }`."""
        return {"policy": value} if isinstance(value, str) else value

    @field_validator("tasks", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        """What a validator of the whole section has passed on holds lists, which a strict tuple refuses."""
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _consistent(self) -> SeenConfig:
        if self.tasks and self.policy != "taken":
            raise ValueError(f'tasks say what is taken, and policy is "{self.policy}"; leave one of them out')
        if self.window_days is not None and self.policy == "none":
            raise ValueError('policy = "none" leaves nothing for window_days; leave one of them out')
        return self

    def sentence(self) -> str:
        """In words, for protocols."""
        if self.policy == "none":
            return "nothing: items the user has had may return, and repeats are to be found"
        what = {
            "shown": "items of any event of the user",
            "taken": "items the user has taken (positive events); items that were only shown return",
        }[self.policy]
        if self.tasks:
            what = f"items of the user's events with label 1 in {' or '.join(self.tasks)}; others return"
        return what + (f"; after {self.window_days:g} days they return" if self.window_days is not None else "")


TAKEN = SeenConfig()
"""The default: what was taken, however long ago."""


@dataclass(frozen=True)
class Seen:
    """The seen items of every user at every moment.

    Attributes:
        config: the policy.
        history: the events that count; None where none does.
        requests: moment -> float64 [U] seconds at which each user's request stands, where a window needs it.
    """

    config: SeenConfig
    history: History | None
    requests: Mapping[int, F64]

    @classmethod
    def of(cls, dataset: Dataset, config: SeenConfig, positive: History, key: str = "retrieval.seen") -> Seen:
        """By a policy.

        Args:
            dataset: encoded data.
            config: the policy.
            positive: the positive events of retrieval.
            key: what messages call the policy.

        Raises:
            ConfigError: a task that is none, or is not binary; a window in a log without times.
        """
        if config.window_days is not None and not dataset.config.time:
            raise ConfigError(f"{key}: a window in days needs times; set data.time, or leave the window out")
        binary = [task.name for task in dataset.config.tasks if task.kind == "binary"]
        if strange := [name for name in config.tasks if name not in binary]:
            raise ConfigError(f'{key} names "{strange[0]}", which is no binary task; there are: {", ".join(binary)}')
        moments = _request_times(dataset) if config.window_days is not None else {}
        return cls(config, _events(dataset, config, positive), moments)

    def of_others(self, people: Dataset, positive: History) -> Seen:
        """The same policy for other users, whose requests stand now."""
        now = {NOW: np.full(people.num_users, self.requests[NOW].max(initial=-np.inf))} if self.requests else {}
        return replace(self, history=_events(people, self.config, positive), requests=now)

    @cached_property
    def _ends(self) -> dict[int, I64]:
        return {}

    @property
    def is_history(self) -> bool:
        """Whether the seen items are those of the positive history, all of them."""
        return self.config == TAKEN

    def before(self, users: I64, moment: int) -> Ragged:
        """Seen item rows at a moment (a `Part`'s start, or `NOW`), oldest first: B lists.

        Args:
            users: int64 [B] user rows.
            moment: see `Dataset.candidates`.
        """
        history = self.history
        if history is None:
            return Ragged.empty(len(users))
        if moment not in self._ends:
            self._ends[moment] = history.ptr[1:] if moment == NOW else history.ends(Part(moment))
        ends = self._ends[moment][users]
        if self.config.window_days is None:
            return history.until(users, ends)
        positions, ptr = spans(history.ptr[users], ends - history.ptr[users])
        owner = np.repeat(np.arange(len(users)), np.diff(ptr))
        times = history.times[positions]
        late = times >= self.requests[moment][users][owner] - self.config.window_days * DAY
        kept = late | (~np.isfinite(times) & (history.rows[positions] >= 0))  # told without a time: just now
        counts = np.bincount(owner[kept], minlength=len(users))
        return Ragged(history.items[positions[kept]].astype(np.int64), offsets(counts))


def _events(dataset: Dataset, config: SeenConfig, positive: History) -> History | None:
    """The events that count by a policy."""
    if config.policy == "none":
        return None
    if config.policy == "shown":
        return dataset.history("")
    return dataset.history(config.tasks) if config.tasks else positive


def _request_times(dataset: Dataset) -> dict[int, F64]:
    """Seconds at which the requests of every moment stand, by user: moment -> float64 [U]."""
    events, found = dataset.events, {}
    for moment in (int(Part.VALID), int(Part.TEST), NOW):
        earlier = (events.parts < moment) & np.isfinite(events.times)
        times = np.full(dataset.num_users, -np.inf)
        if moment == NOW or dataset.config.split.kind == "time":
            times[:] = events.times[earlier].max(initial=-np.inf)
        else:
            np.maximum.at(times, events.users[earlier], events.times[earlier])
        found[moment] = times
    return found
