"""A log that Spark cleaned and sorted is encoded to the data set of the same log sorted here, byte for byte."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.base.files import visible_files
from recsys.configs.run import RunConfig, load_config
from recsys.data.reading.tables import BadRows
from recsys.data.store import save_dataset
from recsys.pipeline.encoded import encode
from recsys.tests.conftest import ROOT

pytest.importorskip("pyspark", reason="needs Spark: pip install 'recsys-funnel[spark]'")
pytestmark = [
    pytest.mark.spark,
    pytest.mark.slow,  # two executors and a driver, a Java process each
    pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java"),
]
SPLIT_BYTES = 40_000
"""Of the log in one task of Spark: several for each file."""


def written(config: RunConfig, world: Path, events: Path, out: Path) -> dict[str, bytes]:
    """Files of the data set of these events, but for the hash of their file."""
    out.mkdir()
    bad = BadRows("drop")
    dataset = encode(config, world, bad, {"events": events, "users": world / "users.csv", "items": world / "items.csv"})
    save_dataset(dataclasses.replace(dataset, fingerprint="", notes=()), out)
    return {name: (out / name).read_bytes() for name in visible_files(out)}


def test_two_executors_write_what_the_local_engine_reads_as_the_same_log(tiny_world: Path, tmp_path: Path) -> None:
    """Two files in no order, with rows that lack a user, an item or a moment; many rows of one moment."""
    from pyspark.sql import SparkSession

    specification = importlib.util.spec_from_file_location("spark_prepare", ROOT / "examples" / "spark_prepare.py")
    assert specification is not None
    assert specification.loader is not None
    example = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(example)

    rng = np.random.default_rng(0)
    log = pd.read_csv(tiny_world / "events.csv", dtype=str, keep_default_na=False)
    log["timestamp"] = (log["timestamp"].astype(int) // 60 * 60).astype(str)
    log = log.iloc[rng.permutation(len(log))].reset_index(drop=True)
    for column, wrong in (("user_id", ""), ("item_id", ""), ("timestamp", "yesterday"), ("timestamp", "")):
        log.loc[rng.choice(len(log), 20, replace=False), column] = wrong
    (tmp_path / "log").mkdir()
    for number, part in enumerate(np.array_split(np.arange(len(log)), 2)):
        log.iloc[part].to_csv(tmp_path / "log" / f"{number}.csv", index=False)
    spark = (
        SparkSession.builder.master("local-cluster[2,1,1024]")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.files.maxPartitionBytes", SPLIT_BYTES)
        .config("spark.sql.shuffle.partitions", 4)
        .config("spark.ui.enabled", "false")
        .getOrCreate()
    )
    try:
        example.prepare(spark, str(tmp_path / "log"), str(tmp_path / "days"), "csv", keys=("user_id", "item_id"))
    finally:
        spark.stop()
    days = sorted(path.name for path in (tmp_path / "days").glob("date=*"))
    assert len(days) > 10
    assert [len(list((tmp_path / "days" / day).glob("*.parquet"))) for day in days] == [1] * len(days)

    named = log[(log["user_id"] != "") & (log["item_id"] != "") & log["timestamp"].str.fullmatch(r"\d+")]
    named.sort_values("timestamp", key=lambda texts: texts.astype(int), kind="stable").to_csv(
        tmp_path / "sorted.csv", index=False
    )
    config = load_config(tiny_world / "demo.toml")
    found = written(config, tiny_world, tmp_path / "days", tmp_path / "of-spark")
    assert found == written(config, tiny_world, tmp_path / "sorted.csv", tmp_path / "of-pandas")
