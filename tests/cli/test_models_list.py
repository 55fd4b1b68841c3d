"""What can be named has a row, a page whose configuration builds, and a place in docs/models.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import recsys
from recsys.artifacts.folder import open_run
from recsys.base.cited import paper_of
from recsys.cli.main import main
from recsys.cli.models_list import Model, catalogue, models
from recsys.cli.models_page import computes, keys_of, page, snippet, where
from recsys.configs.run import RunConfig, load_config
from recsys.data.build import load_dataset
from recsys.funnel.folder import load_run
from recsys.ranking.balance import build_balance
from recsys.ranking.ensemble import build_members
from recsys.ranking.losses import check_task_names
from recsys.retrieval.merge import check_proposers
from recsys.retrieval.towers.train import build_towers
from recsys.tests.support.tiny import TinyRun

ROOT = Path(recsys.__file__).resolve().parent
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)


def test_everything_in_the_catalogue_is_on_the_page() -> None:
    named = set(re.findall(r"\w+", PAGE))
    missing = {entry["name"] for entry in catalogue() if not named.issuperset(re.findall(r"\w+", entry["name"]))}
    assert missing - {"task"} == set()  # the loss of a task has no name in a configuration


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_snippet_is_a_configuration(snippet: str, tmp_path: Path) -> None:
    file = tmp_path / "shop.toml"
    file.write_text(f'extends = "{ROOT / "configs" / "demo.toml"}"\n{snippet}', encoding="utf-8")
    assert isinstance(load_config(file), RunConfig)


def test_every_row_has_its_paper_and_summary_from_its_code() -> None:
    for row in models():
        assert row.summary
        assert row.paper or row.kind == "data source"
        assert row.paper == paper_of(row.code) or row.name == "sample reweighting" or row.kind == "data source", (
            row.name
        )
    assert len({(row.kind, row.name) for row in models()}) == len(models())


def complete(row: Model, tmp_path: Path) -> RunConfig:
    """The configuration on a row's page, on top of the embedded world's."""
    (tmp_path / "shop.toml").write_text(f'extends = "{ROOT / "configs" / "demo.toml"}"\n', encoding="utf-8")
    file = tmp_path / "own.toml"
    file.write_text(f'extends = "shop.toml"\n{snippet(row)}\n', encoding="utf-8")
    return load_config(file)


@pytest.mark.parametrize("row", models(), ids=lambda row: f"{row.kind} {row.name}")
def test_a_page_says_what_is_computed_and_its_configuration_builds(
    row: Model, tmp_path: Path, tiny_run: TinyRun
) -> None:
    text = page(row)
    assert "=" in computes(row) or row.kind == "data source", "no equation"
    for part in (row.name, row.summary, row.paper, where(row)):
        assert part in text
    file, name = where(row).split(", ")
    assert f"{name.split('.')[-1]}" in (ROOT / file).read_text(encoding="utf-8")
    for key, _, meaning in keys_of(row):
        assert key in text
        assert meaning
    config = complete(row, tmp_path)
    for section, value in leaves(row.settings):
        assert has(config.model_dump(mode="json"), section, value), section
    dataset = load_run(open_run(tiny_run.folder), with_index=False).dataset
    if config.data.tasks != dataset.config.tasks or config.data.scale != dataset.config.scale:
        dataset = load_dataset(config.data, tiny_run.world, 0)
    first, second = config.retrieval, config.ranking
    build_towers(dataset, first, 0)
    check_proposers(first.proposers, first.places, first.num_candidates)
    assert build_members(second, dataset.layout, dataset.config.tasks, 0, 0, 1)[1].kind == second.model.kind
    assert build_balance(second.balance, dataset.config.tasks).kind == second.balance.kind
    check_task_names(dataset.config.tasks, second.loss)


def leaves(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of a table and their values."""
    for key, value in table.items():
        if isinstance(value, Mapping) and key != "positive_weight":
            yield from leaves(value, f"{above}{key}.")
        elif key != "tasks":
            yield f"{above}{key}", value


def has(config: Mapping[str, Any], section: str, value: object) -> bool:
    """Whether a resolved configuration has a value at a dotted key."""
    found: Any = config
    for key in section.split("."):
        found = found[key]
    return bool(found == value)


@pytest.mark.parametrize("name", ["DSSM", "gatenet", "GemNN", "Missing-Value Layer", "KL bound", "equal frequency"])
def test_people_find_what_they_type(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", name]) == 0
    assert capsys.readouterr().out.lower().startswith(name.lower().split()[0].split("-")[0])
    assert main(["models", name, "--json"]) == 0
    given = json.loads(capsys.readouterr().out)
    assert set(given) == {"kind", "name", "paper", "summary", "origin", "computes", "configuration", "keys", "code"}


def test_a_name_of_nothing_is_wrong_usage_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "mmoee"]) == 2
    assert capsys.readouterr().err == 'error: nothing is called "mmoee"; did you mean "mmoe"?\n'
    assert main(["models", "qqqqqq"]) == 2
    assert "`recsys models` lists the names" in capsys.readouterr().err
