"""docs/api.md says what the docstrings say, of every public name and every method."""

from __future__ import annotations

import inspect

import recsys
from recsys.docs.document_api import TARGET, document, markdown, members
from recsys.tests.support.nonempty import nonempty


def test_the_page_is_up_to_date() -> None:
    assert TARGET.read_text(encoding="utf-8") == document(), "run `make docs`"


def test_every_public_name_and_method_is_on_the_page() -> None:
    page = document()
    for name in nonempty(recsys.__all__):
        assert f"`recsys.{name}`" in page or f"| `{name}` |" in page
    for kind in (recsys.Recommender, recsys.Report):
        for name, member in nonempty(members(kind).items()):
            assert f"### `{kind.__name__}.{name}`" in page
            assert inspect.getdoc(member), f"{kind.__name__}.{name} has no docstring"
    assert {"recommend", "evaluate", "save", "rank", "score", "explain", "config"} <= set(members(recsys.Recommender))
    assert {"to_frame", "to_html"} <= set(members(recsys.Report))


def test_a_docstring_becomes_lists_and_code() -> None:
    text = """First.

Args:
    a: one
        and a half.
    b: two.

Raises:
    ConfigError: no.

Example:
    >>> 1 + 1
    2
"""
    expected = (
        "First.\n\n**Args**\n\n- `a`: one\n  and a half.\n- `b`: two.\n\n**Raises**\n\n- `ConfigError`: no.\n\n"
        "**Example**\n\n```\n>>> 1 + 1\n2\n```"
    )
    assert markdown(text) == expected
