"""`recsys state` and `recsys refresh`: what a service was told becomes the next run."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import recsys
from recsys.cli.main import main
from recsys.live.log import SqliteLog
from recsys.tests.support.tiny import TINY, TinyRun


@pytest.fixture
def state(tiny_run: TinyRun, tmp_path: Path) -> Path:
    """A state with three clicks, an item that went and one that came."""
    with recsys.load(tiny_run.folder, state=tmp_path / "state") as shop:
        shop.add_events([{"user": "1", "item": str(item), "labels": {"click": 1}} for item in (5, 9, 12)])
        shop.upsert_items([{"item": "5", "available": False}, {"item": "new", "price": 3}])
        shop.log.close()
    return tmp_path / "state"


def test_export_backup_and_trim(
    tiny_run: TinyRun, state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "day.parquet"
    told = ["--state", str(state), "--run", str(tiny_run.folder)]
    assert main(["state", "export", *told, "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["rows"], report["last"]) == ({"events": 3, "items": 1}, 5)
    assert pq.read_table(out)["item_id"].to_pylist() == ["5", "9", "12"]
    assert main(["state", "backup", str(tmp_path / "copy"), "--state", str(state)]) == 0
    with SqliteLog(tmp_path / "copy") as copy:
        assert copy.last == 5
    assert main(["state", "trim", *told]) == 0
    assert "0 rows deleted" in capsys.readouterr().out


def test_refresh_learns_what_was_told_and_goes_on_behind_it(tiny_run: TinyRun, state: Path, tmp_path: Path) -> None:
    run, now = tmp_path / "runs" / "shop", round(time.time())
    shutil.copytree(tiny_run.folder, run)
    with recsys.load(run, state=state) as shop:
        shop.add_events(
            [
                {"user": str(1 + n % 9), "item": str(1 + n % 30), "time": now - 100 + n, "labels": {"click": n % 2}}
                for n in range(80)
            ]
        )
        shop.log.close()
    dates = [f'data.split.{name}="{now - 100 + after}"' for name, after in (("valid_from", 40), ("test_from", 60))]
    settings = [option for one in (*TINY, *dates) for option in ("--set", one)]
    asked = ["refresh", str(tiny_run.config_file), "--state", str(state), "--run", str(run), *settings]
    assert main(asked) == 0
    with recsys.load(run, state=state) as shop:
        assert shop.trained.log == {"log": shop.log.log_id, "last": 85}
        assert len(shop.funnel.dataset.live) == 0  # type: ignore[attr-defined]
        assert "new" in shop.funnel.dataset.item_rows
        shop.log.close()
    assert main(asked) == 1


def test_a_service_says_that_the_log_of_its_state_cannot_be_reached(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["serve", "--run", str(tiny_run.folder), "--state", "redis://127.0.0.1:9"]) == 1
    assert "the log at redis://127.0.0.1:9 cannot be reached now" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
