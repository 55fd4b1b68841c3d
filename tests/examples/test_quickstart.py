"""The script of the quickstart runs, on the simulated shop and on tables of one's own."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import recsys
from recsys.data.world.simulate import SimulateConfig, build_world, simulate
from recsys.examples import quickstart

TINY = SimulateConfig(users=30, items=60, sessions=120)


@pytest.mark.parametrize("own_tables", [pytest.param(False, marks=pytest.mark.exhaustive), True])
def test_the_script_trains_recommends_evaluates_and_saves(
    own_tables: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if own_tables:
        simulate(TINY, tmp_path / "shop")
        quickstart.main(*(str(tmp_path / "shop" / name) for name in ("events.csv", "items.csv", "users.csv")))
    else:
        monkeypatch.setattr(quickstart, "SHOP", TINY)
        quickstart.main()
    printed = capsys.readouterr().out
    for words in ('"user_id" is the user column', "popular", "Retrieval", "Recommender inferred in runs/quickstart"):
        assert words in printed
    user = build_world(TINY).users["user_id"][0].as_py()
    table = recsys.load("runs/quickstart").recommend(user, k=5)
    assert isinstance(table, pd.DataFrame)
    assert len(table) == 5
