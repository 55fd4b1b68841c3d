"""Columns of texts behave as tuples of strings do, and are searched in place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.texts import TextRows, Texts, map_texts, order_of, write_texts

ODD = ("b", "", "a", "ä", "\U0001f600", "a ", "B", "10", "9", "\uffee")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=4), max_size=30), st.lists(st.text(max_size=4), max_size=10))
def test_a_column_is_a_sequence_of_its_texts(values: list[str], asked: list[str]) -> None:
    texts, plain = Texts(values), tuple(values)
    assert list(texts) == values
    assert len(texts) == len(values)
    assert texts == plain
    assert texts[: len(values) // 2] == plain[: len(values) // 2]
    assert texts[::-1] == plain[::-1]
    first = {value: values.index(value) for value in values}
    for text in (*asked, *values):
        assert texts.find(text) == first.get(text, -1)
        assert (text in texts) == (text in first)
    whole = pa.array([*asked, *values, None], pa.string())
    assert texts.rows(whole).tolist() == [first.get(text, -1) for text in (*asked, *values)] + [-1]
    assert texts.appended(asked) == (*values, *asked)


def test_few_texts_among_many_are_searched_one_by_one() -> None:
    many = Texts([f"u{7 * place % 1_000}" for place in range(1_000)])
    few = pa.array(["u7", None, "nobody", "u999"])
    assert many.rows(few).tolist() == [1, -1, -1, list(many).index("u999")]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(alphabet="ab\0éz\U0001f600", max_size=9), max_size=30), st.integers(0, 3), st.integers(1, 4))
def test_the_order_of_a_column_is_that_of_its_texts(values: list[str], skipped: int, words: int) -> None:
    """Whether they are sorted by words or as texts, and wherever in a longer column they begin."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recsys.data.texts.WORDS", words)
        patch.setattr("recsys.data.texts.BLOCK", 4)
        order = order_of(pa.array(["x" * 40, "", "é"][:skipped] + values, pa.string()).slice(min(skipped, 3)))
    assert order.tolist() == sorted(range(len(values)), key=values.__getitem__)


def test_rows_are_a_mapping_of_the_texts() -> None:
    rows = TextRows(Texts(ODD))
    assert dict(rows) == {text: place for place, text in enumerate(ODD)}
    assert rows.get("nobody", -1) == -1
    assert rows.get(3) is None  # type: ignore[call-overload]
    with pytest.raises(KeyError):
        rows["c"]
    with pytest.raises(ValueError, match="'c' is not among the 10 texts"):
        Texts(ODD).index("c")


@pytest.mark.parametrize("mapped", [True, False])
def test_a_column_comes_back_from_its_file(tmp_path: Path, mapped: bool) -> None:
    for number, values in enumerate((ODD, ())):
        texts = Texts(values)
        write_texts(texts, tmp_path / f"{number}.arrow")
        back = map_texts(tmp_path / f"{number}.arrow", texts.order, mapped=mapped)
        assert back == values
        assert [back.find(text) for text in values] == list(range(len(values)))
        assert back.appended(texts) == (*values, *values)
        assert pa.array(back, pa.string()).equals(pa.array(values, pa.string()))


def test_as_an_array_they_are_text() -> None:
    assert np.array(Texts(ODD)).tolist() == list(ODD)
    assert np.array(Texts(ODD), dtype=object).dtype == object
    assert pa.array(Texts(ODD)).to_pylist() == list(ODD)
