"""Logistic: linear in every value, whatever else the row holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recsys.base.errors import ConfigError
from recsys.data.batch import Batch
from recsys.ranking.ranker import build_ranker
from recsys.testing.toy import Toy


def with_codes(batch: Batch, columns: Tensor) -> Batch:
    return replace(batch, item=replace(batch.item, categorical=columns))


def test_what_a_value_adds_does_not_depend_on_the_others(toy: Toy) -> None:
    ranker = build_ranker(toy.config("logistic"), toy.layout, toy.tasks, 0).eval()
    batch = toy.batch(16)
    codes = batch.item.categorical
    assert codes.shape[1] >= 2
    one, two, both = codes.clone(), codes.clone(), codes.clone()
    one[:, 0], two[:, 1] = codes[:, 0].flip(0), codes[:, 1].flip(0)
    both[:, 0], both[:, 1] = one[:, 0], two[:, 1]
    with torch.no_grad():
        base, first, second, joint = (ranker(with_codes(batch, c)) for c in (codes, one, two, both))
    for name, values in base.items():
        torch.testing.assert_close(joint[name] - values, (first[name] - values) + (second[name] - values))
        assert not torch.allclose(first[name], values)


@pytest.mark.parametrize(
    "keys",
    [
        {"input": {"cross_layers": 1}},
        {"input": {"interaction": {"kind": "fm"}}},
        {"input": {"field_gate": {"kind": "bit"}}},
        {"towers": {"click": [4]}},
    ],
    ids=str,
)
def test_it_refuses_what_is_not_linear(toy: Toy, keys: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="logistic is linear"):
        build_ranker(toy.config("logistic", **keys), toy.layout, toy.tasks, 0)
