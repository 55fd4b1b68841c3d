"""The record of a measured number, and the JSON files in `docs/results` that hold them.

One file a table, one record a row (a *variant*). A record says everything that is needed to measure it again: the
command, the seeds, the commit, the data's sha256, the kind of machine, the day, the settings. Records are added one at
a time and the file is replaced whole, so an interrupted run keeps what it finished; several processes may add to one
file.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from recsys.base.files import write_whole
from recsys.benchmarks.harness.provenance import RESULTS, Json

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Record:
    """One row of a table.

    Attributes:
        variant: name of what was measured.
        group: heading it stands under.
        about: one line on what it is.
        command: measures it again.
        seeds: in the order of their runs.
        commit: of the code, with `+` when the checkout had other changes.
        data: sha256 of the source files.
        machine: kind of machine.
        date: UTC day of the last run.
        settings: everything that was set.
        per_seed: seed -> metric -> value.
        extra: ensembles, intervals, curves.
    """

    variant: str
    group: str
    about: str
    command: str
    seeds: tuple[int, ...]
    commit: str
    data: str
    machine: str
    date: str
    settings: Json
    per_seed: dict[str, dict[str, float]]
    extra: Json = field(default_factory=dict)

    def to_json(self) -> Json:
        """With `mean` and `sd` (sample, None for one seed) of every metric that all seeds have."""
        tables = list(self.per_seed.values())
        names = [name for name in tables[0] if all(name in table for table in tables)]
        columns = {name: [table[name] for table in tables] for name in names}
        mean = {name: statistics.fmean(values) for name, values in columns.items()}
        sd = {name: statistics.stdev(values) if len(values) > 1 else None for name, values in columns.items()}
        return {**asdict(self), "seeds": list(self.seeds), "mean": mean, "sd": sd}


class Book:
    """A file of `docs/results`.

    Args:
        name: the file is `<name>.json`.
        title: heading of the page.
        about: paragraphs that stand above the table: what was measured, on what, by which rule.
        columns: metric -> heading, in order; what the page shows of every record.
        command: measures the whole table.
        folder: where the file lies.
        rule: metric whose highest mean chooses a variant, or "".
        figures: PNG files beside the JSON.
    """

    def __init__(
        self,
        name: str,
        title: str,
        about: Sequence[str],
        columns: Mapping[str, str],
        command: str,
        *,
        folder: Path = RESULTS,
        rule: str = "",
        figures: Sequence[str] = (),
    ) -> None:
        self.path = folder / f"{name}.json"
        self.head: Json = {
            "name": name,
            "title": title,
            "about": list(about),
            "columns": dict(columns),
            "command": command,
            "rule": rule,
            "figures": list(figures),
        }

    def variants(self) -> dict[str, Json]:
        """The records in the file, by variant."""
        if not self.path.exists():
            return {}
        found: dict[str, Json] = json.loads(self.path.read_text(encoding="utf-8"))["variants"]
        return found

    def has(self, variant: str, seeds: Sequence[int], data: str) -> bool:
        """Whether the variant stands there with all these seeds, on this data."""
        record = self.variants().get(variant)
        return record is not None and record["data"] == data and set(seeds) <= set(record["seeds"])

    def add(self, record: Record) -> None:
        """Append the record, or replace the one of its variant."""
        with _locked(self.path.parent):
            variants = {**self.variants(), record.variant: record.to_json()}
            self._write(variants)

    def amend(self, variant: str, extra: Json) -> None:
        """Add entries to the `extra` of a record that stands there."""
        with _locked(self.path.parent):
            variants = self.variants()
            variants[variant]["extra"] |= extra
            self._write(variants)

    def _write(self, variants: Json) -> None:
        text = json.dumps({**self.head, "variants": variants}, indent=1, sort_keys=False, ensure_ascii=False)
        write_whole(self.path, text + "\n")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time changes the files of a folder."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
