"""The files that the page of rules shows are files of rules."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import recsys
from recsys.configs.rules import RulesConfig
from recsys.tests.support.nonempty import nonempty


def test_every_file_on_the_page_is_one() -> None:
    page = (Path(recsys.__file__).resolve().parent / "docs" / "rules.md").read_text(encoding="utf-8")
    shown = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    read = [RulesConfig.model_validate(tomllib.loads(text)) for text in nonempty(shown)]
    assert [rules.idle for rules in read] == [False, False, False]
