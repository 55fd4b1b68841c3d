"""Histories of the sequence features: which events each holds, and where each event row stands in it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...base.arrays import I64, Bool, Ints
from ..history import History
from ..log import EventLog
from ..schema import DataConfig
from ..split import Part
from ..split_spec import ORDERED_SPLITS


def build_sequences(
    config: DataConfig, events: EventLog, num_users: int, num_catalogue: int, prior: Mapping[str, tuple[I64, I64]]
) -> tuple[dict[str, History], dict[str, Ints]]:
    """History of each sequence feature, and each event row's pointer into it (strictly earlier events).

    Args:
        config: the `[data]` section.
        events: the log.
        num_users: U.
        num_catalogue: later item rows are in no history.
        prior: sequence feature -> (user rows, item rows) from before the log, each user's oldest first.
    """
    names = [task.name for task in config.tasks]
    histories: dict[str, History] = {}
    ends: dict[str, Ints] = {}
    for spec in config.features:
        if spec.kind != "sequence":
            continue
        chosen = (events.items >= 0) & (events.items < num_catalogue)
        if spec.where:
            task = names.index(spec.where)
            chosen &= (events.labels[:, task] > 0) & events.mask[:, task]
        if config.split.kind not in ORDERED_SPLITS:
            chosen &= events.parts <= Part.TRAIN
        histories[spec.name], ends[spec.name] = history_and_ends(
            config, events, num_users, chosen, prior.get(spec.name)
        )
    return histories, ends


def history_and_ends(
    config: DataConfig, events: EventLog, num_users: int, chosen: Bool, prior: tuple[I64, I64] | None
) -> tuple[History, Ints]:
    """The chosen events per user, and each event row's pointer behind those that it may know; see `build_sequences`."""
    history = History.build(events.users, events.items, events.times, events.parts, chosen, num_users, prior)
    ends = history.ends_at_rows(events.users, events.times, chosen)
    if config.split.kind in ORDERED_SPLITS:
        for part in (Part.VALID, Part.TEST):
            rows = np.flatnonzero(events.parts == part)
            ends[rows] = np.minimum(ends[rows], history.ends(part)[events.users[rows]])
    return history, ends
