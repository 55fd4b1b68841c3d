"""Work shared out among processes finds what one process finds, whatever the blocks are."""

from __future__ import annotations

import numpy as np
import torch

from recsys.base.shares import Arrays, shared_out, told
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.processes import Found, together

BLOCKS = [3, 0, 5, 1, 4, 2, 7]


def of_block(rows: int) -> Arrays:
    """Arrays of several types and shapes, one of them of another length than the block's."""
    rng = np.random.default_rng(rows)
    return {
        "scores": rng.random((rows, 4)),
        "named": rng.random((rows, 2, 3)) < 0.5,
        "items": rng.integers(0, 9, 2 * rows, dtype=np.int32),
        "nothing": np.zeros((0, 3), dtype=np.float32),
    }


COUNTS = (len(BLOCKS), 2)
"""Of blocks; of the fewer ones a third process has nothing to do."""


def of_several() -> Found:
    """In each process: what is found of the first blocks, and what the first process tells."""
    found = {
        f"{count} {name}": torch.from_numpy(values)
        for count in COUNTS
        for name, values in shared_out(BLOCKS[:count], of_block).items()
    }
    text = told("Zürich" * 3 if torch.distributed.get_rank() == 0 else "something else")
    return found | {"told": torch.tensor([ord(letter) for letter in text])}


def test_three_processes_find_what_one_does_in_its_order() -> None:
    first, *others = together(of_several, count=3)
    for count in COUNTS:
        for name, values in nonempty(shared_out(BLOCKS[:count], of_block).items()):
            found = first[f"{count} {name}"]
            assert torch.equal(found, torch.from_numpy(values)), name
            assert found.dtype == torch.from_numpy(values).dtype
    for other in nonempty(others):
        assert bytes(other["told"].to(torch.uint8).tolist()).decode("latin-1") == "Zürich" * 3


def test_one_process_works_on_every_block_and_keeps_what_it_is_told() -> None:
    assert len(shared_out(BLOCKS, of_block)["scores"]) == sum(BLOCKS)
    assert told("alone") == "alone"
