"""What every ranker in the registry promises; a new file in ranking/models is tested here without being named."""

from __future__ import annotations

import pytest

from recsys.base.errors import ConfigError
from recsys.ranking.ranker import ranker_class
from recsys.testing import RankerContract
from recsys.testing.rankers import has_experts
from recsys.tests.support.rankers import KINDS, tables


class TestEveryRanker(RankerContract):
    cases = tables()
    linear = frozenset({"logistic"})


def test_the_registry_finds_the_models_of_the_project() -> None:
    wanted = {
        "single_task",
        "shared_bottom",
        "esmm",
        "escm2",
        "moe",
        "mmoe",
        "cgc",
        "ple",
        "aitm",
        "stem",
        "home",
        "meituan",
        "dupn",
    }
    assert wanted <= set(KINDS)
    assert sum(map(has_experts, KINDS)) >= 6


def test_an_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="mmoe, moe, ple"):
        ranker_class("mmoee")
