"""docs/models.md names everything that can be named, and its snippets are configurations."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import recsys
from recsys.cli.models_list import catalogue
from recsys.configs.run import RunConfig, load_config

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
