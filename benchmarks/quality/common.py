"""What the quality scripts share: command lines, data sets, seeds that are done, progress on stderr."""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from recsys.base.arrays import AnyArray
from recsys.base.errors import RecsysError
from recsys.benchmarks.provenance import RESULTS, ROOT, Json, provenance
from recsys.configs.run import RunConfig, load_config
from recsys.data.build import build_dataset
from recsys.data.dataset import Dataset
from recsys.data.reading.keys import read_configured
from recsys.data.reading.tables import BadRows, Tables
from recsys.data.schema import FeatureSpec
from recsys.training.runtime import Runtime, RuntimeConfig, start_runtime

CONFIGS = ROOT / "configs"
CACHE = ROOT / "runs" / "quality"
MONTH = 30 * 86_400
Arrays = dict[str, AnyArray]


@dataclass(frozen=True)
class Source:
    """A data set of the tables.

    Attributes:
        config: file in `configs/`.
        overrides: as after `--set`.
        change: applied to the raw tables before they are encoded.
        features: declared besides the configured ones.
    """

    config: str
    overrides: tuple[str, ...] = ()
    change: Callable[[Tables], Tables] | None = None
    features: tuple[FeatureSpec, ...] = ()


def parser(description: str, data: Sequence[str], seeds: str = "1,2,3") -> argparse.ArgumentParser:
    """A command line with the options that every script has."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if data:
        found.add_argument("--data", choices=list(data), default=data[0], help="which data set (default: %(default)s)")
    found.add_argument("--variants", default="all", help="names, groups or patterns with *, separated by commas")
    found.add_argument("--seeds", default=seeds, help="of weights, order and draws (default: %(default)s)")
    found.add_argument("--shard", default="0/1", help="i/n: only every n-th variant, from the i-th (0 is the first)")
    found.add_argument("--again", action="store_true", help="measure also what has been measured")
    found.add_argument("--list", action="store_true", help="print the variants and stop")
    found.add_argument("--threads", type=int, default=1, help="of one operation (default: %(default)s)")
    found.add_argument("--bf16", default="auto", choices=("auto", "on", "off"), help="of training products")
    found.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    found.add_argument("--cache", type=Path, default=CACHE, help="folder of predictions of finished seeds")
    found.add_argument("--smoke", action="store_true", help="tiny, into runs/quality/smoke: does the script work?")
    return found


@dataclass(frozen=True)
class Session:
    """A parsed command line, applied to the process."""

    args: argparse.Namespace
    seeds: tuple[int, ...]
    command: str

    def command_of(self, variant: str) -> str:
        """The command that measures one variant."""
        return f"{self.command} --variants {variant} --seeds {','.join(map(str, self.seeds))}"

    @property
    def smoke(self) -> bool:
        """Whether this is only a check that the script works."""
        return bool(self.args.smoke)

    def runtime(self, seed: int) -> Runtime:
        """Seed the process for one training."""
        return start_runtime(RuntimeConfig(threads=self.args.threads, bf16=self.args.bf16), seed)


def start(found: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> Session:
    """Parse the command line and set threads, logging and folders."""
    args = found.parse_args(argv)
    torch.set_num_threads(args.threads)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    if args.smoke:
        args.out = args.cache = CACHE / "smoke"
    words = list(sys.argv[1:] if argv is None else argv)
    script = Path(sys.argv[0]).name
    command = " ".join(["python", f"benchmarks/quality/{script}", *_plain(words)])
    return Session(args, _numbers(args.seeds), command)


def _numbers(text: str) -> tuple[int, ...]:
    """`1,2,5-8` as (1, 2, 5, 6, 7, 8)."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def _plain(words: Sequence[str]) -> list[str]:
    """The command line without what does not change a number, and without variants and seeds."""
    valued, plain = ("--shard", "--out", "--cache", "--variants", "--seeds"), ("--again", "--compare", "--list")
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in valued:
            skip = True
        elif word not in plain and not word.startswith(tuple(f"{name}=" for name in valued)):
            kept.append(word)
    return kept


def pick(groups: Mapping[str, str], patterns: str, shard: str) -> list[str]:
    """Variants chosen on the command line.

    Args:
        groups: variant -> group, in order.
        patterns: `all`, names, groups, or patterns, separated by commas.
        shard: `i/n`.
    """
    wanted = patterns.split(",")
    chosen = []
    for name, group in groups.items():
        if any(w in ("all", group) or fnmatch.fnmatchcase(name, w) for w in wanted):
            chosen.append(name)
    if not chosen:
        say(f"no variant matches {patterns}; there are: {', '.join(groups)}; groups: {', '.join(set(groups.values()))}")
        raise SystemExit(2)
    index, count = (int(part) for part in shard.split("/"))
    return chosen[index::count]


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
    data = config.data.model_copy(update={"features": (*config.data.features, *source.features)})
    root = os.environ.get("RECSYS_DATASETS", "")
    parts = Path(data.path).parts
    if root and "datasets" in parts:
        data = data.model_copy(update={"path": str(Path(root, *parts[parts.index("datasets") + 1 :]))})
    config = config.model_copy(update={"data": data})
    tables = read_configured(data, CONFIGS, BadRows(data.on_bad_rows))
    return config, tables if source.change is None else source.change(tables)


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


class Done:
    """Predictions and metrics of finished seeds, so that an interrupted run continues where it stopped.

    Args:
        folder: where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def seed(
        self,
        variant: str,
        seed: int,
        settings: Json,
        measure: Callable[[], tuple[Mapping[str, float], Arrays]],
        again: bool = False,
    ) -> tuple[Json, Arrays]:
        """A seed's metrics with their provenance, and its arrays: from an earlier run, or measured now.

        Args:
            variant: name of the row.
            seed: of its training.
            settings: everything that decides the outcome; others are another file.
            measure: gives metrics and arrays when no earlier run did.
            again: measure in any case.
        """
        mark = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:10]
        path = self.folder / f"{variant.replace(' ', '-')}-{seed}-{mark}.npz"
        if path.exists() and not again:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            return json.loads(str(arrays.pop("about"))), arrays
        metrics, arrays = measure()
        about = {"metrics": dict(metrics), **provenance()}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{os.getpid()}.{path.name}")
        with partial.open("wb") as handle:
            stored_arrays: dict[str, Any] = {"about": np.asarray(json.dumps(about)), **arrays}
            np.savez(handle, **stored_arrays)
        os.replace(partial, path)
        return about, arrays


def joined(abouts: Sequence[Json], key: str) -> str:
    """What the seeds say of themselves, each once: commits, days, machines."""
    return ", ".join(sorted({about[key] for about in abouts}))


def origin(abouts: Sequence[Json]) -> dict[str, Any]:
    """Where and when a `Record` was measured: commit, machine and date."""
    newest = max(about["date"] for about in abouts)
    return {"commit": joined(abouts, "commit"), "machine": joined(abouts, "machine"), "date": newest}


def of_seeds(found: Mapping[int, tuple[Json, Arrays]]) -> dict[str, Any]:
    """What a `Record` takes from its seeds: their origin, and every seed's metrics."""
    abouts = {str(seed): about for seed, (about, _) in found.items()}
    per_seed = {seed: about["metrics"] for seed, about in abouts.items()}
    return {**origin(list(abouts.values())), "per_seed": per_seed}


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def run(main: Callable[[], None]) -> None:
    """Run a script's `main`; an error a user can mend is one sentence."""
    try:
        main()
    except RecsysError as error:
        say(f"error: {error}")
        raise SystemExit(error.exit_code) from None
