"""Recipes of published models: one word on top of any configuration, and what the packaged ones are made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys.configs.file import recipe_names
from recsys.configs.packaged import FOLDER
from recsys.configs.run import load_config


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_one_word_on_top_of_any_configuration(tmp_path: Path, name: str) -> None:
    demo = (FOLDER / "demo.toml").as_posix()
    auto = 'horizon = "auto"\nlinear = "auto"\nlogit_adjustment = "auto"\n'  # as `recsys init` writes
    below = f'extends = "{demo}"\n[retrieval]\n{auto}'
    (tmp_path / "below.toml").write_text(below)
    (tmp_path / "top.toml").write_text(f'extends = ["below.toml", "recipe:{name}"]\n[retrieval.fit]\nepochs = 3\n')
    retrieval = load_config(tmp_path / "top.toml").retrieval
    assert (retrieval.horizon, retrieval.linear, retrieval.logit_adjustment) == (1, 0.0, 0.0)  # papers know neither
    assert retrieval.fit.epochs == 3
    tower = retrieval.tower
    assert tower.history.encoder == {"gsasrec": "sasrec"}.get(name, name)
    assert (tower.history.hidden, tower.user_output, tower.event_features) == (tower.dim, False, ())
    shipped = load_config(FOLDER / f"movielens-1m-{name}.toml").retrieval
    assert shipped.tower.item_features == ("item_id",)
    assert shipped.tower.history == tower.history
    assert shipped.optim == retrieval.optim
