"""Public data sets as the tables use them: read, changed, encoded."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.benchmarks.harness.provenance import ROOT
from recsys.benchmarks.harness.session import say
from recsys.configs.run import RunConfig, load_config
from recsys.data.build import build_dataset
from recsys.data.dataset import Dataset
from recsys.data.feature_spec import FeatureSpec
from recsys.data.reading.keys import read_configured
from recsys.data.reading.tables import BadRows, Tables
from recsys.data.schema import DataConfig

CONFIGS = ROOT / "configs"
MONTH = 30 * 86_400


@dataclass(frozen=True)
class Source:
    """A data set of the tables.

    Attributes:
        config: file in `configs/`.
        overrides: as after `--set`.
        change: applied to the raw tables before they are encoded.
        features: declared besides the configured ones.
        describe: changes the `[data]` section.
    """

    config: str
    overrides: tuple[str, ...] = ()
    change: Callable[[Tables], Tables] | None = None
    features: tuple[FeatureSpec, ...] = ()
    describe: Callable[[DataConfig], DataConfig] | None = None


def load(source: Source) -> tuple[RunConfig, Dataset]:
    """A data set, encoded once; the split's own seed does not change with the seeds of the trainings.

    The public files are looked for where the configuration says, or in the folder RECSYS_DATASETS names.
    """
    started = time.perf_counter()
    config, tables = read(source)
    dataset = build_dataset(tables, config.data, config.seed)
    say(f"{source.config}: {len(dataset.events):,} rows in {time.perf_counter() - started:.0f} s")
    return config, dataset


def read(source: Source) -> tuple[RunConfig, Tables]:
    """A data set's configuration and raw tables."""
    config = load_config(CONFIGS / source.config, source.overrides)
    data = located(config.data.model_copy(update={"features": (*config.data.features, *source.features)}))
    data = data if source.describe is None else source.describe(data)
    config = config.model_copy(update={"data": data})
    tables = read_configured(data, CONFIGS, BadRows(data.on_bad_rows))
    return config, tables if source.change is None else source.change(tables)


def located(data: DataConfig) -> DataConfig:
    """The section with its path below the folder RECSYS_DATASETS, if that is set and the path leads to `datasets`."""
    root = os.environ.get("RECSYS_DATASETS", "")
    parts = Path(data.path).parts
    if root and "datasets" in parts:
        return data.model_copy(update={"path": str(Path(root, *parts[parts.index("datasets") + 1 :]))})
    return data


def with_month(tables: Tables) -> Tables:
    """Events with a column `month`, the 30-day period of their `timestamp` in seconds."""
    seconds = pc.cast(tables.events["timestamp"], pa.int64())
    return _with(
        tables, "events", tables.events.append_column("month", pc.cast(pc.divide(seconds, MONTH), pa.string()))
    )


def keep_ratings(tables: Tables, least: float) -> Tables:
    """Only events rated at least so high, and the items they name."""
    kept = pc.greater_equal(pc.cast(tables.events["rating"], pa.float64()), least)
    return _used(tables.keep("events", kept.to_numpy(zero_copy_only=False)))


def k_core(tables: Tables, least: int) -> Tables:
    """Only users and items with at least `least` events each, and the items they name."""
    while True:
        events = tables.events
        masks = []
        for column in ("user_id", "item_id"):
            codes = pc.dictionary_encode(events[column]).combine_chunks().indices.to_numpy()
            masks.append(np.bincount(codes)[codes] >= least)
        kept = masks[0] & masks[1]
        if kept.all():
            return _used(tables)
        tables = tables.keep("events", kept)


def _used(tables: Tables) -> Tables:
    if tables.items is None:
        return tables
    named = pc.is_in(tables.items["item_id"], value_set=pc.unique(tables.events["item_id"]))
    return tables.keep("items", named.to_numpy(zero_copy_only=False))


def _with(tables: Tables, name: str, table: pa.Table) -> Tables:
    changed: dict[str, Any] = {name: table}
    return replace(tables, **changed)
