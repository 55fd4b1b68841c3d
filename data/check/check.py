"""`recsys data check`: the configured tables, typed and split as training would, handed to the data report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..build import build_dataset
from ..dataset import Dataset
from ..reading.keys import clean, home_table, label_matrix, read_configured, side_table
from ..reading.tables import BadRows
from ..schema import DataConfig
from ..split import Part
from .report import data_report


def check_data(config: DataConfig, base: Path, seed: int) -> dict[str, Any]:
    """The report of `inspected`."""
    return inspected(config, base, seed)[0]


def inspected(config: DataConfig, base: Path, seed: int) -> tuple[dict[str, Any], Dataset]:
    """Read, clean and split the configured data, and report on it.

    Args:
        config: the `[data]` section.
        base: folder that relative paths start from.
        seed: of random splits.

    Returns:
        The report, see `report.data_report`, and the data set that a training would have.

    Raises:
        DataError: a file, column or value is not what the schema says.
    """
    bad = BadRows(config.on_bad_rows)
    tables, raw = clean(read_configured(config, base, bad), config, bad)
    dataset = build_dataset(tables, config, seed)
    events = dataset.events
    labels, mask = label_matrix(config.tasks, raw.labels, tables)
    observed = np.where(mask, labels, np.nan)
    parts = {
        part.name.lower(): np.sort(events.source_rows[events.parts == part]) for part in Part if part >= Part.TRAIN
    }
    report = data_report(
        tables,
        user=config.user,
        item=config.item,
        times=raw.times if config.time else None,
        labels={task.name: observed[:, column] for column, task in enumerate(config.tasks)},
        parts={name: rows for name, rows in parts.items() if len(rows)},
        features=[
            (home_table(tables, spec), spec.source)
            for spec in config.features
            if spec.kind != "sequence" and not spec.after_event
        ]
        + [(side_table(tables, side), column) for spec in config.derived for side, column in spec.sources],
        dropped=bad,
        split=config.split.kind,
        hashed={n: h.collisions for n, h in dataset.encoders.hashed.items() if n not in dataset.encoders.shared},
    )
    return report, dataset
