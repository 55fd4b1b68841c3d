"""Runs that several tests of the pipeline start from."""

from __future__ import annotations

import csv
import shutil

import pytest

from recsys.pipeline.publish import train_run
from recsys.tests.support.days import LATE_ITEMS, LATE_USERS, Days
from recsys.tests.support.tiny import TinyRun


@pytest.fixture(scope="module")
def days(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Days:
    root = tmp_path_factory.mktemp("days")
    folders = [root / "first", root / "second"]
    with (tiny_run.world / "events.csv").open() as handle:
        header, *rows = list(csv.reader(handle))
    user, item, time = (header.index(name) for name in ("user_id", "item_id", "timestamp"))
    cut = sorted(row[time] for row in rows)[len(rows) * 6 // 10]
    for folder in folders:
        folder.mkdir()
        early = folder.name == "first"
        shutil.copy(tiny_run.world / "users.csv", folder)
        kept = [r for r in rows if (r[time] < cut) == early]
        if early:
            kept = [r for r in kept if int(r[item]) not in LATE_ITEMS and int(r[user]) not in LATE_USERS]
        with (folder / "events.csv").open("w", newline="") as handle:
            csv.writer(handle).writerows([header, *kept])
        lines = (tiny_run.world / "items.csv").read_text().splitlines()
        late = {str(number) for number in LATE_ITEMS}
        listed = [n for n in lines if not early or n.split(",")[0].strip('"') not in late]
        (folder / "items.csv").write_text("\n".join(listed) + "\n")
    run = train_run(tiny_run.config(), root / "run", base=folders[0])
    return Days(tiny_run, folders[0], folders[1], run)
