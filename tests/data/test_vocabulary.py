"""Vocabularies: what each row means, which values get one, and that rows once given never move."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from recsys.data.vocabulary import FIRST, PAD, UNKNOWN, Vocabulary

VALUES = pa.array(["b", "a", "b", None, "c", "b", "a", None, None, None])


def test_values_get_rows_from_two_by_frequency_and_ties_by_first_appearance() -> None:
    vocabulary = Vocabulary.fit(pa.array(["z", "b", "a", "b", "a", "c"]))
    assert vocabulary.values == ("b", "a", "z", "c")
    assert (PAD, UNKNOWN, FIRST) == (0, 1, 2)
    assert vocabulary.rows(pa.array(["b", "a", "z", "c"])).tolist() == [2, 3, 4, 5]
    assert len(vocabulary) == 6


def test_a_value_never_learned_is_unknown_and_padding_is_nobodys_row() -> None:
    vocabulary = Vocabulary.fit(VALUES)
    rows = vocabulary.rows(pa.array(["nobody", "a", "B", " a"]))
    assert rows.tolist() == [UNKNOWN, vocabulary.rows(pa.array(["a"]))[0], UNKNOWN, UNKNOWN]
    assert vocabulary.rows(VALUES).min() >= FIRST


def test_a_missing_value_is_a_value_when_training_rows_have_it() -> None:
    with_missing = Vocabulary.fit(VALUES)
    assert with_missing.values[0] == ""
    assert with_missing.rows(pa.array([None], pa.string())).tolist() == [FIRST]
    without = Vocabulary.fit(VALUES.drop_null())
    assert without.rows(pa.array([None], pa.string())).tolist() == [UNKNOWN]


def test_rare_values_are_left_to_the_unknown_row() -> None:
    vocabulary = Vocabulary.fit(VALUES, min_count=2)
    assert set(vocabulary.values) == {"", "b", "a"}
    assert vocabulary.rows(pa.array(["c"])).tolist() == [UNKNOWN]


def test_weights_are_the_rows_an_entry_stands_for() -> None:
    vocabulary = Vocabulary.fit(pa.array(["a", "b", "c"]), np.array([1, 5, 2]), min_count=2)
    assert vocabulary.values == ("b", "c")


def test_growing_moves_no_row_and_adds_each_new_value_once() -> None:
    vocabulary = Vocabulary.fit(VALUES)
    grown = vocabulary.grow(["new", "a", "newer", "new"])
    assert grown.values == (*vocabulary.values, "new", "newer")
    assert np.array_equal(grown.rows(VALUES), vocabulary.rows(VALUES))
    assert len(grown) == len(vocabulary) + 2


def test_names_undo_rows() -> None:
    vocabulary = Vocabulary.fit(VALUES)
    known = vocabulary.rows(pa.array(["a", "b"])).tolist()
    assert vocabulary.names([PAD, UNKNOWN, *known]) == ["<pad>", "<unknown>", "a", "b"]


def test_an_empty_vocabulary_knows_nothing() -> None:
    empty = Vocabulary.fit(pa.array([], pa.string()))
    assert len(empty) == FIRST
    assert empty.rows(pa.array(["a", None])).tolist() == [UNKNOWN, UNKNOWN]


def test_chunked_columns_are_read_like_plain_ones() -> None:
    chunked = pa.chunked_array([VALUES[:4], VALUES[4:]])
    vocabulary = Vocabulary.fit(chunked)
    assert vocabulary == Vocabulary.fit(VALUES)
    assert vocabulary.rows(chunked).tolist() == vocabulary.rows(VALUES).tolist()


def test_the_most_frequent_values_have_the_rows_there_are() -> None:
    values = pa.array(["a"] * 5 + ["b"] * 4 + ["c"] * 4 + ["d"] + [None] * 6)
    vocabulary = Vocabulary.fit(values, max_rows=3)
    assert list(vocabulary.values) == ["", "a", "b"]
    assert vocabulary.rows(pa.array(["a", "c", "d", None])).tolist() == [3, 1, 1, 2]


def test_of_very_many_values_those_of_one_row_are_unknown_unless_said_otherwise() -> None:
    few, many = pa.array(["a", "b", "c", "a"]), pa.array(["a", "b", "c", "d", "a", "d"])
    assert len(Vocabulary.fit(few, min_count=0, many=3).values) == 3
    assert list(Vocabulary.fit(many, min_count=0, many=3).values) == ["a", "d"]
    assert len(Vocabulary.fit(many, min_count=1, many=3).values) == 4


def test_what_grows_has_the_places_that_are_left() -> None:
    vocabulary = Vocabulary.fit(pa.array(["a", "b"]))
    assert list(vocabulary.grow(["c", "a", "d"], max_rows=3).values) == ["a", "b", "c"]
    assert list(vocabulary.grow(["c", "d"], max_rows=1).values) == ["a", "b"]
    assert list(vocabulary.grow(["c", "d"]).values) == ["a", "b", "c", "d"]
