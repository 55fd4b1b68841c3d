"""What building a data set costs: seconds, CPU seconds and peak memory, each size in a process of its own.

The log: n events sorted by time, n/40 users (zipf) and n/100 items (pareto), one task, one context feature, counts by
item and by user, split by time, read from Parquet.

    python benchmarks/speed/data_build.py                             # 2 million events
    python benchmarks/speed/data_build.py --events 5e6 1e7 2e7 4e7    # is the cost linear?
    python benchmarks/speed/data_build.py --beside ../older/recsys    # the ratio to another checkout, in turns
    python benchmarks/speed/data_build.py --events 1e8 --memory 3GB   # out of core
    python benchmarks/speed/data_build.py --csv; --unsorted           # the same rows as text; out of time order
    python benchmarks/speed/data_build.py --events 2e7 --bad          # one label among them is none, and is left out
    python benchmarks/speed/data_build.py --events 1e8 --append 1e6 --memory 1GB    # a day more, as by `train --from`
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CHUNK = 5_000_000

CHILD = """
import json, resource, sys, tempfile, time

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 2**20

def spent():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)

phases = {}
def measured(name, work):
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")  # the peak counts from here
    wall, cpu = time.perf_counter(), spent()
    found = work()
    phases[name] = {"seconds": time.perf_counter() - wall, "cpu_seconds": spent() - cpu, "peak_gib": peak()}
    return found

def imports():
    global build, DataConfig, Path
    from pathlib import Path
    from recsys.data import build
    from recsys.data.schema import DataConfig

measured("import", imports)
config = DataConfig.model_validate(json.loads(sys.argv[1]))
folder = Path(sys.argv[2])
read, encode = build.read_configured, build.build_dataset
build.read_configured = lambda *given, **named: measured("read", lambda: read(*given, **named))
build.build_dataset = lambda *given, **named: measured("build", lambda: encode(*given, **named))
if len(sys.argv) > 3:
    from recsys.data import store
    source = measured("open", lambda: store.load_dataset(Path(sys.argv[3]).joinpath))
    dataset = build.load_dataset(config, folder, 1, source=source)
    with tempfile.TemporaryDirectory(dir=folder) as kept:
        measured("save", lambda: store.save_dataset(dataset, Path(kept)))
else:
    dataset = build.load_dataset(config, folder, 1)
phases["rows"] = len(dataset.events)
print(json.dumps(phases))
"""

FIRST = """
import json, sys
from pathlib import Path
from recsys.data import build, store
from recsys.data.schema import DataConfig

config, folder, kept = DataConfig.model_validate(json.loads(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3])
dataset = build.load_dataset(config, folder, 1)
kept.mkdir()
store.save_dataset(dataset, kept)
"""


def make_log(
    rows: int, folder: Path, unsorted: bool = False, csv: bool = False, behind: int = 0, bad: bool = False
) -> Path:
    """Write the log, chunk by chunk; kept for the next run.

    Args:
        rows: n.
        folder: to write to.
        unsorted: its times in a random order within each chunk.
        csv: as text.
        behind: rows of a log that it follows, of whose users and items it is.
        bad: with a label of 7 in its middle.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv as pacsv
    import pyarrow.parquet as pq

    marks = ("-unsorted" if unsorted else "") + (f"-behind-{behind}" if behind else "") + ("-bad" if bad else "")
    file = folder / f"log-{rows}{marks}.{'csv' if csv else 'parquet'}"
    if file.exists():
        return file
    rng = np.random.default_rng(rows)
    users, items = (max((behind or rows) // each, 2) for each in (40, 100))
    begin = 1_600_000_000 + (30 * 86_400 if behind else 0)
    writer: Any = None
    for start in range(0, rows, CHUNK):
        count = min(CHUNK, rows - start)
        times = begin + (np.arange(start, start + count) * (30 * 86_400 / rows)).astype(np.int64)
        click = (rng.random(count) < 0.3).astype(np.int64)
        if bad and start <= rows // 2 < start + count:
            click[rows // 2 - start] = 7
        table = pa.table(
            {
                "user_id": (rng.zipf(1.2, count) % users).astype(np.int64),
                "item_id": (rng.pareto(1.1, count) * 20).astype(np.int64) % items,
                "timestamp": rng.permutation(times) if unsorted else times,
                "click": click,
                "cat": pa.array(np.array([f"c{i}" for i in range(30)])).take(pa.array(rng.integers(0, 30, count))),
            }
        )
        if writer is None:
            writer = pacsv.CSVWriter(file, table.schema) if csv else pq.ParquetWriter(file, table.schema)
        writer.write_table(table)
    writer.close()
    return file


def config_of(file: Path, memory: str, held_out: float = 0.1, workers: int = 0) -> dict[str, Any]:
    """The `[data]` section of the log, of which two such shares are held out."""
    section: dict[str, Any] = {
        "events": file.name,
        "features": [
            {"name": "user_id", "side": "user"},
            {"name": "item_id", "side": "item"},
            {"name": "cat", "side": "context"},
        ],
        "tasks": [{"name": "click"}],
        "counts": [{"keys": ["item_id"], "tasks": ["click"]}, {"keys": ["user_id"], "tasks": ["click"]}],
        "split": {"kind": "time", "valid": held_out, "test": held_out},
        "workers": workers,
    }
    return {**section, "memory": memory} if memory else section


def run(checkout: Path, program: str, *arguments: str) -> str:
    """What a program prints in a fresh process of a checkout."""
    with tempfile.TemporaryDirectory() as linked:
        Path(linked, "recsys").symlink_to(checkout.resolve())
        environment = {**os.environ, "PYTHONPATH": linked}
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def measure(checkout: Path, config: dict[str, Any], folder: Path, source: Path | None = None) -> dict[str, Any]:
    """Phases of one build, or of one that goes on from the data set in `source`."""
    more = [] if source is None else [str(source)]
    phases: dict[str, Any] = json.loads(run(checkout, CHILD, json.dumps(config), str(folder), *more).splitlines()[-1])
    rows, parts = phases.pop("rows"), list(phases.values())
    whole = {what: sum(part[what] for part in parts) for what in ("seconds", "cpu_seconds")}
    return {"rows": rows, **whole, "peak_gib": max(part["peak_gib"] for part in parts), "phases": phases}


def told(name: str, found: dict[str, Any]) -> str:
    """One measurement as a line."""
    line = f"{name:>8} {found['rows']:>13,}: {found['seconds']:7.2f} s wall, {found['cpu_seconds']:7.2f} s CPU, "
    line += f"peak {found['peak_gib']:.2f} GiB ("
    return (
        line + "; ".join(f"{n} {p['cpu_seconds']:.2f} s, {p['peak_gib']:.2f}" for n, p in found["phases"].items()) + ")"
    )


def main() -> None:
    """Measure and print; `--out` keeps the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=float, nargs="+", default=[2e6], help="sizes of the log")
    parser.add_argument("--beside", type=Path, help="another checkout, measured in turns with this one")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "recsys-logs", help="of the logs")
    parser.add_argument("--memory", default="", help="[data] memory, such as 3GB")
    parser.add_argument("--workers", type=int, default=0, help="[data] workers; as many as there are cores when 0")
    parser.add_argument("--unsorted", action="store_true", help="rows out of time order")
    parser.add_argument("--csv", action="store_true", help="the log as text")
    parser.add_argument("--bad", action="store_true", help="one bad row among them, which is left out")
    parser.add_argument("--append", type=float, default=0, help="so many later events, on a data set of each size")
    parser.add_argument("--held-out", type=float, default=0.1, help="share of validation, and of test, of every log")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--more", action="store_true", help="beside the figures that the file has")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    records = []
    for size in map(int, options.events):
        file = make_log(size, options.folder, options.unsorted, options.csv, bad=options.bad)
        config, source = config_of(file, options.memory, options.held_out, options.workers), None
        config |= {"on_bad_rows": "drop"} if options.bad else {}
        if options.append:
            source = options.folder / f"data-{size}-{options.held_out}"
            if not source.exists():
                run(ROOT, FIRST, json.dumps(config), str(options.folder), str(source))
            day = make_log(int(options.append), options.folder, behind=size)
            config = config_of(day, options.memory, options.held_out, options.workers)
        ours = measure(ROOT, config, options.folder, source)
        print(told("this", ours), flush=True)
        record = {"this": ours}
        if options.beside:
            theirs = {key: value for key, value in config.items() if key not in ("memory", "workers")}
            record["beside"] = measure(options.beside, theirs, options.folder, source)
            print(told("beside", record["beside"]), flush=True)
            for what in ("seconds", "cpu_seconds", "peak_gib"):
                print(f"{what:>22}: {record['beside'][what] / ours[what]:.2f} times less here")
        asked = {"append": options.append, "held_out": options.held_out, "memory": options.memory}
        asked |= {"workers": options.workers}
        asked |= {"unsorted": options.unsorted, "csv": options.csv, "bad": options.bad}
        records.append({"asked": asked, "load_average": os.getloadavg()[0], **record})
    if options.out:
        from recsys.benchmarks.harness.provenance import write_speed

        write_speed(options.out, "data_build", {"builds": records}, series="builds" if options.more else "")


if __name__ == "__main__":
    main()
