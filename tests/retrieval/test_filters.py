from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.base.errors import ConfigError
from recsys.retrieval.filters import parse_filter

COLUMNS = {
    "category": np.array(["a", "b", "a", "c", "b"]),
    "price": np.array([1.0, 5.0, np.nan, 3.0, 9.5]),
    "weight": np.array([3.3, 0.1, 2.0, 3.3, np.nan], dtype=np.float32),
    "stock": np.array([0, 3, 300, 7, 1], dtype=np.uint16),
    "new": np.array([True, False, True, False, False]),
    "brand": np.array(["x", None, "y", "x", float("nan")], dtype=object),
    "released": np.array(["2020-01-01", "2021-06-01", "NaT", "1999-12-31", "2024-01-01"], dtype="datetime64[D]"),
    "release year": np.array([1999, 2016, 2020, 2001, 2016]),
    "in": np.array([1, 2, 3, 4, 5]),
    "tags": np.array([["red", "big"], ["blue", ""], ["", ""], ["red", "blue"], ["big", ""]]),
}


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('category = "a"', [0, 2]),
        ("category == 'a' and price < 5", [0]),
        ("price < 5 or price >= 9.5", [0, 3, 4]),
        ("category != 'a'", [1, 3, 4]),
        ("price != 5", [0, 2, 3, 4]),  # a missing price is not 5
        ("not (price < 5)", [1, 2, 4]),
        ("not not price < 5", [0, 3]),
        ('category in ("a", "c")', [0, 2, 3]),
        ("stock not in [0, 300]", [1, 3, 4]),
        ("stock = 70000", []),
        ("weight in (3.3, 0.1)", [0, 1, 3]),  # neither of them exact in single precision
        ("weight = 3.3", [0, 3]),
        ("price = 5 or category = 'c' and stock > 100", [1]),
        ("(price = 5 or category = 'c') and stock < 100", [1, 3]),
        ("new = true", [0, 2]),
        ("NOT new = TRUE AND stock >= 3", [1, 3]),
        ("brand = 'x'", [0, 3]),
        ("brand in ('y', 'z')", [2]),
        ("brand > 'x'", [2]),
        ("brand != 'x'", [1, 2, 4]),
        ("released >= '2021-01-01'", [1, 4]),
        ("released in ('1999-12-31')", [3]),
        ("tags = 'red'", [0, 3]),
        ("tags in ('blue', 'big')", [0, 1, 3, 4]),
        ("not tags = 'red'", [1, 2, 4]),
        ("price > -1e0 and price < +2.5", [0]),
        ("  price\n<\t5  ", [0, 3]),
        ('"release year" > 2015', [1, 2, 4]),
        ("`release year` in (1999, 2001) or not 'release year' < 2020", [0, 2, 3]),
        ("`in` < 3 and \"category\" = 'a'", [0]),
        ("`release year` not in (2016)", [0, 2, 3]),
    ],
)
def test_expressions_mean_what_they_say(text: str, rows: list[int]) -> None:
    bitmap = parse_filter(text).bitmap(COLUMNS)
    assert bitmap.rows.tolist() == rows
    assert bitmap.size == 5


@pytest.mark.parametrize(
    ("text", "character", "sentence"),
    [
        ("", 1, "expected a column name, found the end"),
        ("price <", 8, "expected a number, a text in quotes, true or false, found the end"),
        ("price << 5", 8, "found '<'"),
        ("price < cheap", 9, "found 'cheap'"),
        ("price 5", 7, "expected one of ="),
        ("price < 5 category = 'a'", 11, "expected 'and', 'or' or the end, found 'category'"),
        ("(price < 5", 11, "expected ')', found the end"),
        ("category in 'a'", 13, "expected '('"),
        ("category in ('a' 'b')", 18, "expected ',' or ')'"),
        ("release year > 2015", 9, "one of =, !=, <, <=, >, >=, in (a column of several words, or one called like"),
        ("in > 3", 1, "expected a column name (a column of several words, or one called like a keyword, stands in"),
        ("`release year > 3", 1, "has no end; close the quotes"),
        ("`release yaer` > 3", 2, "no column 'release yaer'; the items have"),
        ("category in ()", 14, "expected a number"),
        ("category not 'a'", 14, "expected 'in'"),
        ("category = 'a", 12, "close the quotes"),
        ("price < 5 & stock > 1", 11, "'&' is no column, value or operator"),
        ("price < 5kg", 9, "'5kg' is no column"),
        ("and price < 5", 1, "expected a column name (a column of several words, or one called like a keyword"),
        ("size = 3", 1, "no column 'size'; the items have brand, category, in, new"),
        ("price < 5 and size = 3", 15, "no column 'size'"),
        ("price = 'low'", 9, "column 'price' holds numbers and cannot be compared with 'low'"),
        ("category = 3", 12, "column 'category' holds text and cannot be compared with 3"),
        ("new = 1", 7, "holds true or false"),
        ("stock = true", 9, "holds numbers"),
        ("brand in ('x', 4)", 16, "column 'brand' holds text"),
        ("released > 'soon'", 12, "holds dates and 'soon' is none"),
    ],
)
def test_mistakes_are_pointed_at(text: str, character: int, sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)) as caught:
        parse_filter(text).bitmap(COLUMNS)
    assert f"character {character}:" in str(caught.value)


def test_a_bottomless_expression_is_refused_in_one_sentence() -> None:
    with pytest.raises(ConfigError, match="more than 100 conditions"):
        parse_filter("(" * 5000)


def test_columns_are_known_before_they_are_needed_and_must_agree_in_length() -> None:
    condition = parse_filter("price < 5 and not (category = 'a' or stock in (1))")
    assert condition.columns == {"price", "category", "stock"}
    with pytest.raises(ConfigError, match="different lengths"):
        condition.bitmap(COLUMNS | {"stock": np.arange(4)})


@st.composite
def trees(draw: st.DrawFn, depth: int = 3) -> tuple[str, str]:
    """The same condition in our language and in Python."""
    kind = draw(st.sampled_from(["leaf"] if depth == 0 else ["leaf", "not", "and", "or"]))
    if kind == "leaf":
        name, value = draw(st.sampled_from("ab")), draw(st.integers(-2, 2))
        sign = draw(st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "in"]))
        if sign == "in":
            return f"{name} in ({value}, 1)", f"({name} in ({value}, 1))"
        return f"{name} {sign} {value}", f"({name} {'==' if sign == '=' else sign} {value})"
    ours, python = draw(trees(depth=depth - 1))
    if kind == "not":
        return f"not ({ours})", f"(not {python})"
    other_ours, other_python = draw(trees(depth=depth - 1))
    return f"({ours}) {kind} ({other_ours})", f"({python} {kind} {other_python})"


@given(trees(), st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=1, max_size=12))
@settings(database=None, max_examples=80)
def test_any_expression_selects_what_python_would(tree: tuple[str, str], items: list[tuple[int, int]]) -> None:
    ours, python = tree
    columns = {"a": np.array([item[0] for item in items]), "b": np.array([item[1] for item in items])}
    expected = [at for at, (a, b) in enumerate(items) if eval(python, {"a": a, "b": b})]
    assert parse_filter(ours).bitmap(columns).rows.tolist() == expected
