"""Whether the tests notice a change of the code: small mutations of a file, each met by the tests of that file.

    python benchmarks/mutation.py --sample 400 --seed 1            # of all rooms below, at random
    python benchmarks/mutation.py nn/gates.py retrieval/towers     # every mutant of these
    python benchmarks/mutation.py --sample 400 --seed 1 --untried  # those of the same draw that have no result yet
    python benchmarks/mutation.py --survivors                      # those that lived last time without a reason, again
    python benchmarks/mutation.py --list nn/gates.py               # what would be tried

A mutant is killed when a test fails, or when the tests take many times as long. The tests of a file are those of its
name, then those that import it, then the contract of a ranker that uses it (`ranking/`); whole trainings
(`tests/pipeline`, `tests/training`, `tests/cli`) are left out, so a survivor here may still die there. Each mutant
lives in a forked process and only in memory: no file is changed. The tests that run the changed line come first, and
only what passes them meets the others. Results are kept per file in
docs/mutation.json, which a further call adds to; the reason why a survivor may live (`why`) is written there by
hand and stays.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from recsys.base.errors import ConfigError
from recsys.base.files import write_whole
from recsys.benchmarks.harness.provenance import ROOT, Json, provenance
from recsys.benchmarks.mutation_operators import Mutant, describe, mutants_of
from recsys.benchmarks.mutation_tests import reference, relevant_tests, survives, warm_up

RECORD = ROOT / "docs" / "mutation.json"
ROOMS = ("ranking", "nn", "retrieval/towers", "evaluation")
PATIENCE = 8.0
"""A mutant is killed when its tests take this many times as long as without it."""


def files_of(paths: Iterable[str]) -> list[str]:
    """Python files of the rooms or files named, relative to the package.

    Raises:
        ConfigError: there is none.
    """
    files: list[str] = []
    for path in paths:
        place = ROOT / path
        under = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        if not under or not under[0].exists():
            raise ConfigError(f"{path} is no room and no file of the package")
        files += [
            file.relative_to(ROOT).as_posix()
            for file in under
            if file.name != "__init__.py" or file.stat().st_size > 400
        ]
    return files


def key_of(entry: Json) -> tuple[str, str, str, str, int]:
    """What a mutant is, wherever its line has moved to."""
    return entry["scope"], entry["operator"], entry["before"], entry["after"], entry["nth"]


def entry_of(mutant: Mutant) -> Json:
    """A mutant as it stands in the record."""
    return {key: getattr(mutant, key) for key in ("line", "scope", "operator", "before", "after", "nth")}


def try_file(file: str, chosen: Sequence[Mutant], record: Json) -> None:
    """Try mutants of one file and write what became of them into the record.

    Raises:
        ConfigError: the file has no tests, or they fail without any change.
    """
    tests, source = relevant_tests(file), (ROOT / file).read_bytes()
    if not tests:
        raise ConfigError(f"no test imports {file}; give it one")
    started = time.monotonic()
    unchanged = reference(file, tests)
    if not unchanged.ok:
        raise ConfigError(f"the tests of {file} fail without any change: {' '.join(tests)}")
    limit = 10.0 + PATIENCE * unchanged.seconds
    before = record["files"].get(file, {})
    known = {key_of(entry): entry for entry in before.get("tried", [])}
    for mutant in chosen:
        entry = entry_of(mutant)
        old = known.get(key_of(entry), {})
        entry["killed"] = not survives(file, mutant.apply(source), tests, mutant.line, unchanged, limit)
        entry["killed_at_first"] = old.get("killed_at_first", entry["killed"])
        if not entry["killed"]:
            print(
                f"  survived {file}:{mutant.line} {mutant.operator}: {mutant.before!r} -> {mutant.after!r}", flush=True
            )
            if "why" in old:
                entry["why"] = old["why"]
        known[key_of(entry)] = entry
    there = {key_of(entry_of(mutant)) for mutant in mutants_of(source)}
    tried = sorted((entry for key, entry in known.items() if key in there), key=lambda entry: int(entry["line"]))
    record["files"][file] = {"mutants": len(mutants_of(source)), "tests": tests, "tried": tried}
    alive = sum(not entry["killed"] for entry in tried)
    seconds = time.monotonic() - started
    print(f"{file}: {len(tried)} tried, {alive} alive, {seconds:.0f} s (tests {unchanged.seconds:.1f} s)", flush=True)


def summary(record: Json) -> str:
    """Markdown table: tried, killed at first and now, survivors with and without a reason, by room."""
    rows = [
        "| room | mutants | tried | killed at first | killed now | explained | open |",
        "|---|---|---|---|---|---|---|",
    ]
    for room in (*ROOMS, ""):
        files = [entry for file, entry in record["files"].items() if file.startswith(room)]
        tried = [entry for file in files for entry in file["tried"]]
        if not tried:
            continue
        first = sum(entry["killed_at_first"] for entry in tried) / len(tried)
        now = sum(entry["killed"] for entry in tried) / len(tried)
        alive = [entry for entry in tried if not entry["killed"]]
        explained = sum("why" in entry for entry in alive)
        rows.append(
            f"| {room or 'all'} | {sum(file['mutants'] for file in files):,} | {len(tried):,} | {first:.1%} "
            f"| {now:.1%} | {explained} | {len(alive) - explained} |"
        )
    return "\n".join(rows)


def main() -> None:
    """See the module."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("paths", nargs="*", help=f"rooms or files (default: {' '.join(ROOMS)})")
    options.add_argument("--sample", type=int, default=0, help="mutants drawn from all of them (default: every one)")
    options.add_argument("--seed", type=int, default=1, help="of the draw (default: %(default)s)")
    options.add_argument("--survivors", action="store_true", help="only those that lived last time, without a reason")
    options.add_argument("--untried", action="store_true", help="only those of the draw without a result in the record")
    options.add_argument("--list", action="store_true", help="print the mutants and try none")
    options.add_argument("--summary", action="store_true", help="print the table of the record and try none")
    options.add_argument("--record", type=Path, default=RECORD, help="file of the results (default: %(default)s)")
    asked = options.parse_args()
    record: Json = {"files": {}}
    if asked.record.exists():
        record = json.loads(asked.record.read_text(encoding="utf-8"))
    if asked.summary:
        print(summary(record))
        return
    drawn = [
        (file, mutant) for file in files_of(asked.paths or ROOMS) for mutant in mutants_of((ROOT / file).read_bytes())
    ]
    if asked.survivors:
        alive = {
            (file, *key_of(entry))
            for file, kept in record["files"].items()
            for entry in kept["tried"]
            if not entry["killed"] and "why" not in entry
        }
        drawn = [(file, mutant) for file, mutant in drawn if (file, *key_of(entry_of(mutant))) in alive]
    if asked.sample and asked.sample < len(drawn):
        drawn = sorted(random.Random(asked.seed).sample(drawn, asked.sample), key=lambda pair: (pair[0], pair[1].start))
    if asked.untried:
        done = {(file, *key_of(entry)) for file, kept in record["files"].items() for entry in kept["tried"]}
        drawn = [(file, mutant) for file, mutant in drawn if (file, *key_of(entry_of(mutant))) not in done]
    if asked.list:
        for file in dict.fromkeys(file for file, _ in drawn):
            print(file, *describe([mutant for other, mutant in drawn if other == file]), sep="\n  ")
        print(f"{len(drawn)} mutants")
        return
    warm_up()
    record.setdefault("draws", [])
    draw = {
        "paths": asked.paths or list(ROOMS),
        "sample": asked.sample,
        "seed": asked.seed,
        "survivors": asked.survivors,
    }
    if draw not in record["draws"]:
        record["draws"].append(draw)
    for file in dict.fromkeys(file for file, _ in drawn):
        try_file(file, [mutant for other, mutant in drawn if other == file], record)
        record |= provenance()
        record["files"] = dict(sorted(record["files"].items()))
        write_whole(asked.record, json.dumps(record, indent=1) + "\n")
    print(summary(record))


if __name__ == "__main__":
    main()
