"""Attribute conditions on items, `category = "x" and price < 5`, as a bitmap that the index searches inside.

    expression := all ("or" all)*                all := test ("and" test)*
    test       := "not" test | "(" expression ")" | column operator value | column ["not"] "in" "(" value, ... ")"
    operator   := =  ==  !=  <  <=  >  >=        value := number | "text" | 'text' | true | false
    column     := name | `any name` | "any name"

A column is one value per item row, or several (tags, genres), a [N, M] array or a `TextColumn`: then a row passes when
any of its values does. A missing value (NaN, None, NaT, no text at all) passes no comparison; `!=`, `not in` and `not`
are exact opposites.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import ArrayLike

from ..base.arrays import AnyArray, Bool
from ..base.errors import ConfigError
from ..data.encoding.attributes import TextColumn
from .index.bitmap import Bitmap

Value = str | int | float | bool
Column = TextColumn | AnyArray

_DEEPEST = 100
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?![\w.])"""
    r"""|(?P<text>"[^"]*"|'[^']*')|`(?P<quoted>[^`]+)`|(?P<name>[^\W\d][\w.]*)|(?P<sign><=|>=|!=|==|[=<>(),\[\]])|(?P<end>$))"""
)
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_NAME_HINT = " (a column of several words, or one called like a keyword, stands in backticks: `release year`)"
_KEYWORDS = {"and", "or", "not", "in", "true", "false"}


@dataclass(frozen=True)
class Filter:
    """A parsed condition; apply it to as many catalogues as have its columns.

    Args:
        text: the expression, for messages.
        condition: its tree.
    """

    text: str
    condition: _Condition

    @property
    def columns(self) -> frozenset[str]:
        """The names of the columns that it reads."""
        return frozenset(self.condition.columns())

    def bitmap(self, columns: Mapping[str, ArrayLike | TextColumn]) -> Bitmap:
        """The item rows that satisfy it.

        Args:
            columns: name -> values of the items in row order: [N], [N, M], or texts of N items.

        Raises:
            ConfigError: a column is missing, or holds something that its value cannot be compared with.
        """
        given = {name: columns[name] for name in self.columns if name in columns}
        arrays = {name: v if isinstance(v, TextColumn) else np.asarray(v) for name, v in given.items()}
        lengths = {len(values) for values in arrays.values()}
        if len(lengths) > 1:
            raise ConfigError(f"the columns of filter {self.text!r} have different lengths ({sorted(lengths)})")
        everything = sorted(columns)
        return Bitmap.from_mask(self.condition.mask(_Table(self.text, arrays, everything)))


def parse_filter(text: str) -> Filter:
    """Read an expression.

    Args:
        text: such as `genre in ("Drama", "War") and not year < 1980`.

    Raises:
        ConfigError: it is no expression of this language; the sentence says at which character and what was expected.
    """
    parser = _Parser(text)
    condition = parser.expression(0)
    if parser.kind != "end":
        parser.fail("'and', 'or' or the end")
    return Filter(text, condition)


@dataclass(frozen=True)
class _Table:
    """The columns at hand, and the words to complain with."""

    text: str
    arrays: Mapping[str, Column]
    known: list[str]

    def column(self, name: str, at: int) -> Column:
        if name not in self.arrays:
            _fail(self.text, at, f"there is no column {name!r}; the items have {', '.join(self.known) or 'none'}")
        return self.arrays[name]


class _Condition(Protocol):
    """A node of the tree."""

    def columns(self) -> set[str]: ...
    def mask(self, table: _Table) -> Bool: ...


@dataclass(frozen=True)
class _Compare:
    """`column operator value`."""

    name: str
    sign: str
    value: Value
    at: int
    value_at: int

    def columns(self) -> set[str]:
        return {self.name}

    def mask(self, table: _Table) -> Bool:
        column = table.column(self.name, self.at)
        values = _values(column)
        wanted = _comparable(table.text, self.name, values, self.value, self.value_at)
        if values.dtype.kind != "O" or self.sign == "=":
            return _any_value(column, np.asarray(_COMPARE[self.sign](values, wanted), dtype=np.bool_))
        present = np.asarray(np.frompyfunc(_present, 1, 1)(values), dtype=np.bool_)
        passed = np.zeros(values.shape, dtype=np.bool_)
        passed[present] = _COMPARE[self.sign](values[present], wanted).astype(np.bool_)
        return _any_value(column, passed)


@dataclass(frozen=True)
class _Among:
    """`column in (value, ...)`."""

    name: str
    members: tuple[tuple[Value, int], ...]
    at: int

    def columns(self) -> set[str]:
        return {self.name}

    def mask(self, table: _Table) -> Bool:
        column = table.column(self.name, self.at)
        values = _values(column)
        wanted = [_comparable(table.text, self.name, values, value, at) for value, at in self.members]
        if values.dtype.kind == "O":
            known = set(wanted)
            return _any_value(column, np.frompyfunc(lambda entry: entry in known, 1, 1)(values).astype(np.bool_))
        if values.dtype.kind == "f":  # 3.3 in single precision is not 3.3 in double: compare in the column's own
            wanted = [values.dtype.type(value) for value in wanted]
        return _any_value(column, np.isin(values, np.array(wanted)))


@dataclass(frozen=True)
class _Not:
    """`not condition`."""

    inner: _Condition

    def columns(self) -> set[str]:
        return self.inner.columns()

    def mask(self, table: _Table) -> Bool:
        return ~self.inner.mask(table)


@dataclass(frozen=True)
class _Join:
    """Conditions that must all hold, or of which one must."""

    parts: tuple[_Condition, ...]
    every: bool

    def columns(self) -> set[str]:
        return set().union(*(part.columns() for part in self.parts))

    def mask(self, table: _Table) -> Bool:
        masks = [part.mask(table) for part in self.parts]
        joined: Bool = (np.logical_and if self.every else np.logical_or).reduce(masks)
        return joined


class _Parser:
    """Recursive descent with one token of look-ahead: `kind`, `token`, and `at`, the character it starts at."""

    def __init__(self, text: str) -> None:
        self.text, self.next_at = text, 0
        self.kind, self.token, self.at = "", "", 0
        self.advance()

    def advance(self) -> None:
        match = _TOKEN.match(self.text, self.next_at)
        if match is None or match.lastgroup is None:
            start = len(self.text) - len(self.text[self.next_at :].lstrip())
            if self.text[start] in "\"'`":
                _fail(self.text, start, f"the text that starts with {self.text[start]} has no end; close the quotes")
            found = re.split(r"\s", self.text[start:], maxsplit=1)[0]
            _fail(self.text, start, f"{found!r} is no column, value or operator; put text into quotes")
        self.kind, self.token, self.at = match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)
        self.next_at = match.end()
        if self.kind == "name" and self.token.lower() in _KEYWORDS:
            self.kind = self.token.lower()
        if self.kind == "quoted":
            self.kind = "name"

    def take(self, *tokens: str) -> str | None:
        """Step over the next token if it is one of these."""
        if self.kind in tokens or (self.kind == "sign" and self.token in tokens):
            taken = self.token
            self.advance()
            return taken
        return None

    def fail(self, expected: str) -> NoReturn:
        found = "the end" if self.kind == "end" else repr(self.token)
        _fail(self.text, self.at, f"expected {expected}, found {found}")

    def expression(self, depth: int) -> _Condition:
        if depth > _DEEPEST:
            _fail(self.text, self.at, f"more than {_DEEPEST} conditions stand inside each other; flatten it")
        parts = [self.conjunction(depth)]
        while self.take("or"):
            parts.append(self.conjunction(depth))
        return parts[0] if len(parts) == 1 else _Join(tuple(parts), every=False)

    def conjunction(self, depth: int) -> _Condition:
        parts = [self.test(depth)]
        while self.take("and"):
            parts.append(self.test(depth))
        return parts[0] if len(parts) == 1 else _Join(tuple(parts), every=True)

    def test(self, depth: int) -> _Condition:
        negations = 0
        while self.take("not"):
            negations += 1
        if self.take("("):
            inner = self.expression(depth + 1)
            if not self.take(")"):
                self.fail("')'")
        else:
            inner = self.comparison()
        return _Not(inner) if negations % 2 else inner

    def comparison(self) -> _Condition:
        name, at = self.token, self.at
        if self.kind == "text":  # nothing but a column can stand here
            self.kind, name = "name", name[1:-1]
        if self.kind != "name":
            self.fail(f"a column name{_NAME_HINT if self.kind in _KEYWORDS else ''}")
        self.advance()
        negated = self.take("not") is not None
        if self.take("in"):
            among = _Among(name, self.members(), at)
            return _Not(among) if negated else among
        if negated:
            self.fail("'in'")
        sign = self.take("=", "==", "!=", "<", "<=", ">", ">=")
        if sign is None:
            self.fail(f"one of =, !=, <, <=, >, >=, in{_NAME_HINT if self.kind == 'name' else ''}")
        value, value_at = self.value()
        equal = _Compare(name, "=" if sign in {"==", "!="} else sign, value, at, value_at)
        return _Not(equal) if sign == "!=" else equal

    def members(self) -> tuple[tuple[Value, int], ...]:
        opening = self.take("(", "[")
        if opening is None:
            self.fail("'('")
        closing = ")" if opening == "(" else "]"
        listed = [self.value()]
        while self.take(","):
            listed.append(self.value())
        if not self.take(closing):
            self.fail(f"',' or '{closing}'")
        return tuple(listed)

    def value(self) -> tuple[Value, int]:
        kind, token, at = self.kind, self.token, self.at
        if kind not in {"number", "text", "true", "false"}:
            self.fail("a number, a text in quotes, true or false")
        self.advance()
        if kind == "text":
            return token[1:-1], at
        if kind == "number":
            return (int(token) if re.fullmatch(r"[-+]?\d+", token) else float(token)), at
        return kind == "true", at


def _comparable(text: str, name: str, values: AnyArray, value: Value, at: int) -> Any:
    """The value in the type of the column; a comparison that could never hold is a mistake, not an empty set."""
    kind = values.dtype.kind
    if kind == "O":
        first = next((entry for entry in values.flat if _present(entry)), None)
        holds = "text" if isinstance(first, str) else "numbers"
        fits = first is None or isinstance(value, str) == isinstance(first, str)
    elif kind == "M":
        holds, fits = "dates", isinstance(value, str)
        if fits:
            try:
                return np.datetime64(str(value))
            except ValueError:
                _fail(text, at, f"column {name!r} holds dates and {value!r} is none; write it as 2024-03-31")
    else:
        holds = {"U": "text", "T": "text", "b": "true or false"}.get(kind, "numbers")
        fits = isinstance(value, str) == (holds == "text") and isinstance(value, bool) == (kind == "b")
        if kind not in "UTbiuf":
            _fail(text, at, f"column {name!r} is of type {values.dtype}, which no filter compares")
    if not fits:
        hint = "; put the value into quotes" if holds == "text" else ""
        _fail(text, at, f"column {name!r} holds {holds} and cannot be compared with {value!r}{hint}")
    return value


def _values(column: Column) -> AnyArray:
    """What is compared: every value of an array, every distinct text of a text column."""
    return np.array(column.values, dtype=object) if isinstance(column, TextColumn) else column


def _any_value(column: Column, passed: Bool) -> Bool:
    """One answer per item row: any of its values."""
    if isinstance(column, TextColumn):
        return column.where(passed)
    if passed.ndim == 1:
        return passed
    answer: Bool = np.asarray(passed.any(axis=tuple(range(1, passed.ndim))))
    return answer


def _present(entry: object) -> bool:
    """Whether an entry of an object column holds a value."""
    return entry is not None and not (isinstance(entry, float) and math.isnan(entry))


def _fail(text: str, at: int, what: str) -> NoReturn:
    raise ConfigError(f"filter {text!r}, character {at + 1}: {what}")
