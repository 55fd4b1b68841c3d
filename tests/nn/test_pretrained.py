"""Rows that start from given vectors keep what the vectors say, and frozen ones never move."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from recsys.data.pretrained import Pretrained, TableStart
from recsys.data.vocabulary import FIRST, UNKNOWN, Vocabulary
from recsys.nn.embedding import EmbeddingTable
from recsys.nn.pretrained import frozen_starts, start_tables
from recsys.training.optim import OptimConfig, Optimizer

KNOWN = 30
VOCABULARY = Vocabulary(tuple(f"v{i}" for i in range(40)))
"""The last ten have no vector; the file also has vectors of values that nobody uses."""


def source(width: int, rank: int | None = None, seed: int = 0) -> Pretrained:
    rng = np.random.default_rng(seed)
    values = rng.permutation([f"v{i}" for i in range(KNOWN)] + [f"unused{i}" for i in range(9)])
    factors = rng.normal(size=(len(values), rank or width)) @ rng.normal(size=(rank or width, width))
    return Pretrained(pa.array(values.tolist()), (factors + 3.0).astype(np.float32), "d")


def table(dim: int) -> EmbeddingTable:
    torch.manual_seed(1)
    return EmbeddingTable({"other": 12, "film": len(VOCABULARY)}, dim, 0.05)


def started(given: Pretrained, dim: int, frozen: bool = False) -> EmbeddingTable:
    found = table(dim)
    start_tables([found], {"film": TableStart(given, VOCABULARY, frozen)})
    return found


def of_value(given: Pretrained, value: str) -> np.ndarray:
    return given.vectors[given.values.to_pylist().index(value)]


def test_equal_widths_keep_every_vector_up_to_one_factor() -> None:
    given = source(6)
    rows = started(given, 6).rows_of("film").detach().numpy()
    ratio = np.stack([rows[FIRST + i] / of_value(given, f"v{i}") for i in range(KNOWN)])
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)
    assert ratio[0, 0] > 0


def test_wider_vectors_keep_their_geometry() -> None:
    given = source(20, rank=4)  # centred, four directions say everything
    rows = started(given, 4).rows_of("film").detach().numpy()[FIRST : FIRST + KNOWN]
    truth = np.stack([of_value(given, f"v{i}") for i in range(KNOWN)]) - given.vectors.mean(0)
    ours, theirs = rows @ rows.T, truth @ truth.T
    np.testing.assert_allclose(ours / np.abs(ours).max(), theirs / np.abs(theirs).max(), atol=1e-4)


def test_narrower_vectors_fill_the_first_columns() -> None:
    rows = started(source(3), 5).rows_of("film")[FIRST : FIRST + KNOWN]
    assert rows[:, :3].all()
    assert not rows[:, 3:].any()


@pytest.mark.parametrize("width", [3, 6, 20])
def test_the_rest_of_the_table_is_left_as_it_was_drawn(width: int) -> None:
    drawn, found = table(6), started(source(width), 6)
    assert torch.equal(found.rows_of("other"), drawn.rows_of("other"))
    assert torch.equal(found.rows_of("film")[:FIRST], drawn.rows_of("film")[:FIRST])
    assert torch.equal(found.rows_of("film")[FIRST + KNOWN :], drawn.rows_of("film")[FIRST + KNOWN :])
    size = float(found.rows_of("film")[FIRST : FIRST + KNOWN].detach().square().mean().sqrt())
    assert 0.02 < size < 0.1  # no louder than what was drawn, 0.05


def test_what_a_value_starts_from_depends_on_the_file_alone() -> None:
    given, other = source(20), table(6)
    few = Vocabulary(("v4", "v2"))
    start_tables([other], {"film": TableStart(given, few, False)})
    whole = started(given, 6)
    torch.testing.assert_close(other.rows_of("film")[FIRST], whole.rows_of("film")[FIRST + 4])
    torch.testing.assert_close(other.rows_of("film")[FIRST + 1], whole.rows_of("film")[FIRST + 2])


def test_starting_again_changes_nothing_and_undoes_a_warm_start() -> None:
    given = source(20)
    found = started(given, 6, frozen=True)
    before = found.weight.detach().clone()
    with torch.no_grad():
        found.weight.add_(1.0)  # what somebody else put there
    start_tables([found], frozen_starts({"film": TableStart(given, VOCABULARY, True)}))
    rows = slice(found.offsets["film"] + FIRST, found.offsets["film"] + FIRST + KNOWN)
    assert torch.equal(found.weight[rows], before[rows])
    assert torch.equal(found.weight[rows.stop :], before[rows.stop :] + 1.0)
    assert len(found.still_rows) == 2 + KNOWN
    assert not frozen_starts({"film": TableStart(given, VOCABULARY, False)})


@pytest.mark.parametrize("kind", ["adam", "rowwise_adagrad"])
@pytest.mark.parametrize("lookups", [4, 400])  # by sorting, and by a dense buffer
@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_rows_never_move_and_all_others_do(kind: Any, lookups: int, frozen: bool) -> None:
    found = started(source(6), 6, frozen)
    before = found.weight.detach().clone()
    config = OptimConfig(lr=0.1, table_optimizer=kind, table_weight_decay=0.1, clip_norm=1.0)
    optimizer = Optimizer(found, config, 40)
    everything = torch.arange(found.weight.shape[0])
    for rows in everything.repeat(1 + lookups // len(everything)).split(lookups):
        optimizer.zero_grad()
        found(rows).square().sum().backward()
        optimizer.step()
    moved = (found.weight.detach() != before).any(1)
    start = found.offsets["film"]
    given = torch.zeros_like(moved)
    given[start + FIRST : start + FIRST + KNOWN] = True
    assert bool(moved[given].any()) is not frozen
    assert not frozen or torch.equal(found.weight.detach()[given], before[given])
    rest = ~given
    rest[found.pad_rows] = False
    assert moved[rest].all()  # the unknown row and values without a vector among them
    assert moved[start + UNKNOWN]


def test_the_pooled_lookup_obeys_too() -> None:
    found = started(source(6), 6, frozen=True)
    before = found.weight.detach().clone()
    optimizer = Optimizer(found, OptimConfig(lr=0.1), 1)
    rows = torch.arange(found.offsets["film"] + 1, found.offsets["film"] + 40).view(3, 13)
    found.pooled(rows, torch.full((3, 13), 0.5)).sum().backward()
    optimizer.step()
    start = found.offsets["film"] + FIRST
    assert torch.equal(found.weight[start : start + KNOWN], before[start : start + KNOWN])
    assert not torch.equal(found.weight[start + KNOWN], before[start + KNOWN])


def test_a_table_without_the_vocabulary_is_left_alone() -> None:
    found = EmbeddingTable({"other": 5}, 3)
    before = found.weight.detach().clone()
    start_tables([found], {"film": TableStart(source(6), VOCABULARY, True)})
    assert torch.equal(found.weight, before)
    assert torch.equal(found.still_rows, found.pad_rows)
