"""Whether a change of the code changed a number: three small trainings, their metrics kept and compared bit for bit.

    python benchmarks/same_numbers.py keep before.json
    python benchmarks/same_numbers.py compare before.json

The embedded world (both stages), MovieLens-100K (both stages, one epoch each) and Census-Income (the ranker, one
epoch), each trained, indexed, evaluated and asked for ten recommendations through the command line, so that the script
does not depend on what is moved. One seed, one thread of training, one machine: another processor may round otherwise,
and so does the evaluation with another number of BLAS threads, so that OMP_NUM_THREADS and the like are ignored. Times
are left out.
Data sets that are not on disk are left out with a sentence; a comparison fails when it lacks one that was kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATASETS = ROOT.parent / "shared" / "datasets"
THREADS = "runtime.threads=1"
IGNORED = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables that the verbs run without: they would change the last digits of bootstrapped intervals."""
TIMED = ("_ms", "second", "timings", "_bytes")
NAMED = {"report", "git_commit", "commit", "machine", "version", "package_version", "config"}
"""Parts of keys, and whole keys, that hold a time, a size on disk, a place or what was asked for, and no result."""

TRAININGS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "demo": ("", "all", ()),
    "movielens-100k": (
        "movielens-1m",
        "all",
        ("retrieval.fit.epochs=1", "ranking.fit.epochs=1", f"data.path={DATASETS / 'ml-100k' / 'ml-100k.zip'}"),
    ),
    "census-income": (
        "census-income",
        "ranking",
        ("ranking.fit.epochs=1", f"data.path={DATASETS / 'census-income-kdd'}"),
    ),
}
"""name -> (configuration, stage, settings); the first one is the embedded world."""


def recsys(*arguments: str | Path) -> str:
    """What a verb prints on stdout."""
    command = [sys.executable, "-m", "recsys.cli.main", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name not in IGNORED}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment).stdout


def results(name: str, folder: Path) -> dict[str, Any]:
    """Train one of `TRAININGS` into `folder` and return everything that was measured."""
    config, stage, settings = TRAININGS[name]
    run = folder / name
    if config:
        overrides = [part for setting in (THREADS, *settings) for part in ("--set", setting)]
        recsys("train", ROOT / "configs" / f"{config}.toml", "--run", run, "--stage", stage, *overrides)
    else:
        world = folder / "world"
        recsys("data", "simulate", world)
        recsys("train", world / "demo.toml", "--run", run, "--set", THREADS)
    found: dict[str, Any] = {"history": history(run)}
    if stage == "all":
        found["index"] = json.loads(recsys("build-index", "--run", run, "--json", "--factory", "Flat"))
        found["recommend"] = json.loads(recsys("recommend", "--run", run, "--user", "1", "--explain", "--json"))
    found["evaluate"] = json.loads(recsys("evaluate", "--run", run, "--json"))
    found["tensors"] = {
        str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(run.glob("*/model.safetensors"))
    }
    return found


def history(run: Path) -> dict[str, list[Any]]:
    """The training histories of a run, a line of JSON an epoch."""
    files = sorted(run.glob("*/history.jsonl"))
    return {file.parent.name: [json.loads(line) for line in file.read_text().splitlines()] for file in files}


def is_timed(key: str) -> bool:
    """Whether a key's value is no result; "conversion" holds the word "version" and is one."""
    return key in NAMED or any(part in key for part in TIMED)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of everything in a JSON tree that is a result."""
    if isinstance(value, dict):
        for key, below in value.items():
            if not is_timed(key):
                yield from leaves(below, f"{path}/{key}")
    elif isinstance(value, list):
        for place, below in enumerate(value):
            yield from leaves(below, f"{path}/{place}")
    else:
        yield path, value


def main() -> int:
    """Keep or compare; 1 when something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["keep", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", default=",".join(TRAININGS), help="names, with commas between them")
    arguments = parser.parse_args()
    now: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only.split(","):
            needed = [
                Path(setting.split("=", 1)[1]) for setting in TRAININGS[name][2] if setting.startswith("data.path")
            ]
            if missing := [path for path in needed if not path.exists()]:
                print(f"{name}: left out, {missing[0]} is not there", file=sys.stderr)
                continue
            now[name] = dict(leaves(results(name, Path(folder))))
    if arguments.action == "keep":
        arguments.file.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
        print(f"{sum(map(len, now.values())):,} values of {', '.join(now)} kept in {arguments.file}")
        return 0
    before = json.loads(arguments.file.read_text())
    differing = 0
    for name in arguments.only.split(","):
        was = {path: value for path, value in before.get(name, {}).items() if not any(map(is_timed, path.split("/")))}
        new = json.loads(json.dumps(now.get(name, {})))
        both = was.keys() & new.keys()
        changed = sorted(path for path in both if was[path] != new[path])
        gone, added = sorted(was.keys() - new.keys()), sorted(new.keys() - was.keys())
        print(f"{name}: {len(both) - len(changed):,} equal, {len(changed)} changed, {len(gone)} gone, {len(added)} new")
        for path in changed[:20]:
            print(f"  {path}: {was[path]} -> {new[path]}")
        for word, paths in (("gone", gone), ("new", added)):
            print(*(f"  {word}: {path}" for path in paths[:20]), sep="\n", end="\n" if paths else "")
        differing += len(changed) + len(gone)
    return int(differing > 0)


if __name__ == "__main__":
    raise SystemExit(main())
