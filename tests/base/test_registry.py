"""Registries: sorted names, lazy entries, and an error that helps with a misspelt name."""

from __future__ import annotations

import sys

import pytest

from recsys.base.errors import ConfigError
from recsys.base.registry import Registry


def test_names_are_sorted_whatever_the_order_of_registration() -> None:
    numbers: Registry[int] = Registry("number")
    for name, value in (("two", 2), ("one", 1), ("three", 3)):
        numbers.register(name, value)
    assert list(numbers) == ["one", "three", "two"]
    assert list(numbers.entries().items()) == [("one", 1), ("three", 3), ("two", 2)]
    assert ("two" in numbers, "four" in numbers) == (True, False)


def test_a_lazy_entry_is_imported_when_it_is_asked_for() -> None:
    sys.modules.pop("xml.dom.pulldom", None)
    modules: Registry[type] = Registry("parser", {"pull": "dom.pulldom:PullDOM"}, "xml")
    assert "pull" in modules
    assert "xml.dom.pulldom" not in sys.modules
    assert modules["pull"].__name__ == "PullDOM"


def test_an_unknown_name_gets_the_names_and_the_closest_one() -> None:
    rankers: Registry[int] = Registry("ranker", {"mmoe": "nowhere:MMoE"})
    rankers.register("ple", 1)
    with pytest.raises(ConfigError, match=r'no ranker is called "mmoo"; there are: mmoe, ple; did you mean "mmoe"\?'):
        rankers["mmoo"]
    with pytest.raises(ConfigError, match=r"there are: mmoe, ple$"):
        rankers["xyz"]
