"""Leakage checks on a run's own data, before any number is believed: what was fitted on what, what knows the future."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ..base.errors import DataError
from ..base.finding import Finding
from ..base.ragged import Ragged, offsets
from ..data.dataset import Dataset
from ..data.encoding.groups import combine
from ..data.split import Part
from ..data.vocabulary import FIRST
from ..evaluation.leaks import leak_suspects, overlapping_time, statistics_from_outside, time_travel

SAMPLE = 20_000
"""Training rows looked at for columns that separate a label too well."""


def leak_findings(dataset: Dataset) -> list[Finding]:
    """Every suspicion of leakage in an encoded data set: columns, counts, vocabularies, histories, parts."""
    return [*_columns(dataset), *_counts(dataset), *_vocabularies(dataset), *_histories(dataset), *_parts(dataset)]


def refuse_leaks(dataset: Dataset) -> list[Finding]:
    """The findings that are warnings.

    Raises:
        DataError: a finding is certain; its sentence names the column.
    """
    findings = leak_findings(dataset)
    certain = [finding.sentence for finding in findings if finding.level == "problem"]
    if certain:
        raise DataError("leakage: " + " ".join(certain))
    return findings


def _columns(dataset: Dataset) -> list[Finding]:
    rows = dataset.rows(Part.TRAIN)
    rows = rows[torch.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).long()]
    batch, layout = dataset.batch(rows), dataset.layout
    columns: dict[str, NDArray[np.generic]] = {}
    for block, side in ((batch.query, layout.query), (batch.item, layout.item)):
        columns |= {name: block.categorical[:, i].numpy() for i, name in enumerate(side.categorical)}
        columns |= {name: block.numeric[:, i].numpy() for i, name in enumerate(side.numeric) if name not in columns}
    labels = {
        task.name: np.where(batch.mask[:, i].numpy(), batch.labels[:, i].numpy(), np.nan).astype(np.float64)
        for i, task in enumerate(dataset.config.tasks)
        if task.kind == "binary"
    }
    return leak_suspects(columns, labels)


def _counts(dataset: Dataset) -> list[Finding]:
    events, findings = dataset.events, []
    train = np.flatnonzero(events.parts <= Part.TRAIN)
    for table in dataset.counts:
        codes = []
        for key in table.spec.keys:
            side = dataset.config.feature(key).side
            entity = {"user": events.users, "item": events.items, "context": np.arange(len(events))}[side]
            codes.append(dataset.key_codes[key][entity[train]])
        keys, totals = np.unique(combine(codes, table.sizes), return_counts=True)
        at = np.minimum(np.searchsorted(keys, table.keys), len(keys) - 1)
        rows = np.where(keys[at] == table.keys, totals[at], 0)
        findings += statistics_from_outside(f"count {table.spec.name}", table.seen.astype(np.int64), rows)
    return findings


def _vocabularies(dataset: Dataset) -> list[Finding]:
    """Users and items that have a row of their own although no training row names them."""
    events, findings = dataset.events, []
    train = events.parts <= Part.TRAIN
    for side, entity, block in (("user", events.users, dataset.users), ("item", events.items, dataset.items)):
        training_rows = np.bincount(entity[train & (entity >= 0)], minlength=block.rows)
        for spec in [spec for spec in dataset.config.features if spec.name not in dataset.encoders.hashed]:
            own_id = dataset.config.user if side == "user" else dataset.config.item
            lent = spec.shared_with or spec.name in dataset.encoders.shared.values()  # known from another column
            if (
                spec.side == side
                and spec.kind == "categorical"
                and not spec.in_bag
                and spec.source == own_id
                and not lent
            ):
                column = dataset.sides[side].categorical.index(spec.name)
                known = (block.codes(column) >= FIRST).astype(np.int64)
                findings += statistics_from_outside(f"vocabulary {spec.name}", known, training_rows)
    return findings


def _histories(dataset: Dataset) -> list[Finding]:
    findings = []
    for name, history in dataset.sequences.items():
        rows = np.flatnonzero(dataset.sequence_ends[name] > history.ptr[np.maximum(dataset.events.users, 0)])
        latest = dataset.sequence_ends[name][rows].astype(np.int64) - 1
        one_each = Ragged(latest, offsets(np.ones(len(rows), dtype=np.int64)))
        if dataset.config.time:
            findings += time_travel(one_each, history.times[latest], dataset.events.times[rows])
    return findings


def _parts(dataset: Dataset) -> list[Finding]:
    if dataset.config.split.kind != "time":
        return []
    times, parts = dataset.events.times, dataset.events.parts
    return overlapping_time(times[parts == Part.TRAIN], times[parts == Part.TEST])
