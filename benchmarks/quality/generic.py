"""One generic configuration on every public log: what `recsys init` writes of the tables, trained and measured.

Protocol. Each log lies in a folder as plain tables. `recsys init` looks at them and writes a configuration; nothing is
changed in it but the split of the MovieLens rows called "last item left out", which is the published protocol. `recsys
train`, `build-index` and `evaluate` follow as typed. No setting hangs on the name of a log; the test part is opened by
`evaluate` alone.

Figures are full rankings of the whole catalogue. Intervals are 95 % over users drawn with replacement. CPU seconds are
those of the training's process: reading, encoding, both stages, every baseline, and all epochs' validations.

python benchmarks/quality/generic.py --data beauty       # writes docs/results/generic-beauty.json
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv

from recsys.base.files import write_whole
from recsys.benchmarks.harness.provenance import RESULTS, Json, provenance
from recsys.benchmarks.harness.session import CACHE, say
from recsys.benchmarks.harness.sources import CONFIGS, located, read
from recsys.benchmarks.quality.record_run import shortened
from recsys.benchmarks.quality.retrieval_variants import SOURCES
from recsys.data.schema import DataConfig

SHARED = "../../shared/datasets"
DERIVED = ("month",)
"""Columns that the reader of MovieLens adds: no part of the log."""
LISTS = ("hit", "ndcg", "recall", "mrr", "coverage", "novelty", "popularity", "diversity")
SYSTEMS = ("two_tower", "popularity", "recent_popularity", "item_knn", "ease", "transition")
LAST = "data.split.kind=leave_last"


@dataclass(frozen=True)
class Log:
    """A public log.

    Attributes:
        title: heading of its section.
        tables: writes its tables into a folder, or names those that lie there: role -> file.
        settings: as after `--set`, beside what `recsys init` writes.
    """

    title: str
    tables: Callable[[Path], dict[str, Path]]
    settings: tuple[str, ...] = ()


def _lying(folder: str, **files: str) -> Callable[[Path], dict[str, Path]]:
    """Tables that `recsys init` can read where they lie."""

    def found(_: Path) -> dict[str, Path]:
        there = Path(located(DataConfig(source="movielens", path=f"{SHARED}/{folder}")).path)
        return {role: (CONFIGS / there / file).resolve() for role, file in files.items()}

    return found


def _unpacked(name: str) -> Callable[[Path], dict[str, Path]]:
    """The tables in MovieLens' archive, as CSV files."""

    def found(folder: Path) -> dict[str, Path]:
        _, tables = read(SOURCES[name])
        out = {}
        for role, table in (("events", tables.events), ("items", tables.items), ("users", tables.users)):
            if table is None:
                continue
            told = [column for column in table.schema.names if column not in DERIVED and _says(table.column(column))]
            if len(told) > 1:  # more than the key
                out[role] = folder / f"{role}.csv"
                pa_csv.write_csv(table.select(told), out[role])
        return out

    return found


def _says(column: pa.ChunkedArray) -> bool:
    """Whether a column holds any value."""
    return any(value not in ("", None) for value in column.unique().to_pylist())


LOGS: dict[str, Log] = {
    "beauty": Log("Amazon Beauty", _lying("amazon-beauty", events="events.csv.gz", items="items.csv.gz")),
    "ml-100k": Log("MovieLens-100K, last item left out", _unpacked("ml-100k"), (LAST,)),
    "ml-latest-small": Log("MovieLens latest-small", _unpacked("ml-latest-small")),
    "movielens-1m": Log("MovieLens-1M, last item left out", _unpacked("movielens"), (LAST,)),
    "movielens-1m-time": Log("MovieLens-1M, the last tenth of the time tests", _unpacked("movielens")),
    "kuairand": Log(
        "KuaiRand-Pure",
        _lying(
            "kuairand-pure-late",
            events="log_standard_4_25_to_5_08_pure.csv.gz",
            items="video_features_basic_pure.csv.gz",
            users="user_features_pure.csv.gz",
        ),
    ),
}


def typed(folder: Path, *words: str) -> tuple[str, float]:
    """Run a command of `recsys` in a folder: what it printed on stdout, and its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [str(Path(sys.executable).with_name("recsys")), *words]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(log: Log, folder: Path, seed: int, threads: int, changes: tuple[str, ...]) -> Json:
    """One seed: the configuration that `init` writes, trained, indexed and evaluated."""
    tables = log.tables(folder)
    sides = [word for role in ("items", "users") if role in tables for word in (f"--{role}", str(tables[role]))]
    typed(folder, "init", str(tables["events"]), *sides, "--out", "generic.toml", "--force")
    settings = [*log.settings, *changes, f"seed={seed}", f"runtime.threads={threads}"]
    shutil.rmtree(folder / "run", ignore_errors=True)
    _, seconds = typed(folder, "train", "generic.toml", "--run", "run", *(f"--set={one}" for one in settings))
    typed(folder, "build-index", "--run", "run")
    text, _ = typed(folder, "evaluate", "--run", "run", "--json")
    found = json.loads(text)
    return {
        "cpu_seconds": round(seconds),
        "data_sha256": found["data"]["fingerprint"],
        "protocol": found["protocol"],
        "systems": {name: _figures(found["retrieval"][name]) for name in SYSTEMS if name in found["retrieval"]}
        | {"funnel": _figures(found["funnel"]) | _headroom(found["funnel"])},
        "pauses": [one for one in found.get("all_slices", []) if one["column"] == "pause"],
        "ranking": {
            task: {name: value for name, value in figures.items() if name.removesuffix("_ci") in ("auc", "gauc")}
            for task, figures in found.get("ranking", {}).items()
        },
    }


def _figures(metrics: Json) -> Json:
    kept = {f"{name}@10" for name in LISTS} | {"recall@100"}
    return {name: value for name, value in metrics.items() if name.removesuffix("_ci") in kept}


def _headroom(funnel: Json) -> Json:
    names = ("oracle_ndcg@10", "first_stage_ndcg@10", "headroom_taken")
    return {name: value for name, value in funnel.items() if name.removesuffix("_ci") in names}


def main() -> None:
    """Parse, measure each seed, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(LOGS), nargs="+", default=list(LOGS), help="logs (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="of the trainings (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="of one operation (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a change, kept in the record")
    parser.add_argument("--name", default="", help="of the changed row, in words; needed with --set")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    if options.set and not options.name:
        parser.error("changes make another row: give it a --name")
    for data in options.data:
        folder = CACHE / "generic" / data
        folder.mkdir(parents=True, exist_ok=True)
        seeds: dict[str, Any] = {}
        for seed in options.seeds:
            found = measure(LOGS[data], folder, seed, options.threads, tuple(options.set))
            seeds[str(seed)] = shortened(found)
            figures = {name: round(one["ndcg@10"], 4) for name, one in found["systems"].items()}
            say(f"{data}, seed {seed}: {found['cpu_seconds']} CPU s, NDCG@10 {figures}")
        command = f"python benchmarks/quality/generic.py --data {data} --seeds {' '.join(map(str, options.seeds))}"
        command += "".join(f" --set {one}" for one in options.set)
        command += f" --name {shlex.quote(options.name)}" if options.name else ""
        record = {"generic": data, "title": LOGS[data].title, "name": options.name, "command": command}
        record |= {**provenance(), "settings": [*LOGS[data].settings, *options.set], "seeds": seeds}
        write_whole(
            options.out / f"generic-{'-'.join([data, *options.name.replace(',', '').split()])}.json",
            json.dumps(record, indent=1) + "\n",
        )


if __name__ == "__main__":
    main()
