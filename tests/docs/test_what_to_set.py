"""The settings that docs/what-to-set.md advises are settings, and none of them is a default already."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import recsys
from recsys.configs.run import RunConfig
from recsys.tests.support.nonempty import nonempty

PAGE = (Path(recsys.__file__).resolve().parent / "docs" / "what-to-set.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?```toml\n(.*?)```", PAGE, flags=re.DOTALL | re.MULTILINE)


def leaves(section: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Path and value of every key that is no section."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def config_of(text: str) -> dict[str, Any]:
    """A whole configuration with what is shown in it."""
    shown = tomllib.loads(text)
    data = {"events": "events.csv", "user": "user_id", "item": "video_id", "time": "time"} | shown.get("data", {})
    features: list[dict[str, Any]] = [{"name": "user_id", "side": "user"}, {"name": "video_id", "side": "item"}]
    features += [{"name": "author_id", "side": "item"}, {"name": "rating", "side": "context", "after_event": True}]
    tasks = data.get("tasks", [{"name": "click"}])
    return {"name": "shown", **shown, "data": data | {"features": features, "tasks": tasks}}


@pytest.mark.parametrize(("kind", "text"), SHOWN, ids=[kind for kind, _ in SHOWN])
def test_every_snippet_is_a_configuration_that_changes_something(kind: str, text: str) -> None:
    told = config_of(text)
    config = RunConfig.model_validate(told).model_dump()
    default = RunConfig.model_validate({"name": "plain", "data": told["data"]}).model_dump()
    unchanged = []
    for path, _ in nonempty(leaves({name: told[name] for name in tomllib.loads(text) if name != "data"})):
        given: Any = config
        before: Any = default
        for key in path:
            given, before = given[key], before.get(key) if isinstance(before, dict) else None
        if given == before:
            unchanged.append(".".join(path))
    assert unchanged == []


def test_the_page_has_a_snippet_for_each_kind_of_log() -> None:
    kinds = [kind for kind, _ in SHOWN]
    assert kinds == ["A shop", "A video feed", "Music, podcasts, groceries", "Films, books, ratings", "News"]
