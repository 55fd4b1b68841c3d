"""Clean an event log with Spark and write it in time order, one folder of Parquet a day: where a build starts.

python spark_prepare.py LOG OUT [--format csv] [--time timestamp] [--keys user_id,item_id]   or with spark-submit

LOG is a file or a folder, Parquet or CSV with a header. Rows without one of the keys or without a moment
(seconds since 1970) are left out. Rows of one moment stay in the order of their files, and values stay as they are, so
`[data] events = "OUT"` is encoded as the log itself would be. A day is sorted by one task, in the memory of one.
"""

from __future__ import annotations

import argparse

from pyspark.sql import SparkSession
from pyspark.sql import functions as f


def prepare(
    spark: SparkSession, log: str, out: str, form: str = "parquet", time: str = "timestamp", keys: tuple[str, ...] = ()
) -> None:
    """Write the rows of `log` that have keys and a moment to `out/date=.../*.parquet`."""
    rows = spark.read.csv(log, header=True, escape='"') if form == "csv" else spark.read.parquet(log)
    moment = f.expr(f"try_cast(`{time}` AS DOUBLE)")
    place = (f.col("_metadata.file_path"), f.col("_metadata.file_block_start"), f.monotonically_increasing_id())
    named = rows.select(
        "*",
        moment.alias("moment"),
        f.to_date(f.timestamp_seconds(moment)).alias("date"),
        *(column.alias(f"place{number}") for number, column in enumerate(place)),
    )
    clean = named.where(f.col("moment").isNotNull()).dropna(subset=list(keys))
    ordered = clean.repartition("date").sortWithinPartitions("date", "moment", "place0", "place1", "place2")
    ordered.drop("moment", "place0", "place1", "place2").write.partitionBy("date").parquet(out, mode="errorifexists")


def main() -> None:
    """Prepare what the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log")
    parser.add_argument("out")
    parser.add_argument("--format", choices=("parquet", "csv"), default="parquet")
    parser.add_argument("--time", default="timestamp")
    parser.add_argument("--keys", default="user_id,item_id")
    arguments = parser.parse_args()
    spark = SparkSession.builder.appName("prepare").config("spark.sql.session.timeZone", "UTC").getOrCreate()
    prepare(spark, arguments.log, arguments.out, arguments.format, arguments.time, tuple(arguments.keys.split(",")))
    spark.stop()


if __name__ == "__main__":
    main()
