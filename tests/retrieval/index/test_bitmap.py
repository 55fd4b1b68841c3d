from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.base.errors import ConfigError
from recsys.base.ragged import Ragged
from recsys.retrieval.index import Bitmap
from recsys.retrieval.index.bitmap import as_exclusions, excluded_pairs

masks = st.lists(st.booleans(), max_size=40).map(lambda bits: np.array(bits, dtype=np.bool_))


@given(masks)
@settings(database=None, max_examples=60)
def test_a_bitmap_is_the_set_it_was_made_from(mask: np.ndarray) -> None:
    bitmap = Bitmap.from_mask(mask)
    assert bitmap.mask().tolist() == mask.tolist()
    assert bitmap.rows.tolist() == np.flatnonzero(mask).tolist()
    assert bitmap.count == mask.sum()
    assert (~bitmap).count == len(mask) - bitmap.count
    assert Bitmap.from_rows(bitmap.rows, len(mask)).bits.tolist() == bitmap.bits.tolist()
    asked = np.arange(-3, len(mask) + 3)
    expected = [bool(0 <= row < len(mask) and mask[row]) for row in asked]
    assert bitmap.contains(asked).tolist() == expected


@given(st.data())
@settings(database=None, max_examples=60)
def test_and_or_not_are_those_of_sets(data: st.DataObject) -> None:
    first = data.draw(masks)
    second = np.array(data.draw(st.lists(st.booleans(), min_size=len(first), max_size=len(first))), dtype=np.bool_)
    one, two = Bitmap.from_mask(first), Bitmap.from_mask(second)
    assert (one & two).mask().tolist() == (first & second).tolist()
    assert (one | two).mask().tolist() == (first | second).tolist()
    assert (~one).mask().tolist() == (~first).tolist()


def test_rows_outside_the_catalogue_and_sets_of_other_catalogues_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"row 9 is outside the 5 item rows"):
        Bitmap.from_rows([1, 9], 5)
    with pytest.raises(ConfigError, match=r"over 5 and 6 rows"):
        Bitmap.from_rows([1], 5) & Bitmap.from_rows([1], 6)
    with pytest.raises(ConfigError, match="whole numbers"):
        Bitmap.from_rows([0.5], 5)


def test_exclusions_come_as_lists_or_ragged_and_count_once() -> None:
    lists = as_exclusions([[4, 4, 1], [], np.array([-1, 99, 2])], 3)
    ragged = as_exclusions(Ragged(np.array([4, 4, 1, -1, 99, 2]), np.array([0, 3, 3, 6])), 3)
    for exclusions in (lists, ragged):
        query, row = excluded_pairs(exclusions, num_rows=10)
        assert list(zip(query.tolist(), row.tolist(), strict=True)) == [(0, 1), (0, 4), (2, 2)]
    with pytest.raises(ConfigError, match="exclusions for 3 queries came with 2"):
        as_exclusions(lists, 2)
