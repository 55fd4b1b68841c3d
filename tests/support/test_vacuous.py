"""The check that finds tests which can pass without asserting anything, and the helper that mends them."""

from __future__ import annotations

import pytest

from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.vacuous import vacuous_tests

VACUOUS = (
    "load()",
    "for x in elements():\n        assert x",
    "for x in nonempty(rows()):\n        for y in x:\n            assert y",
    "while more():\n        assert x",
    "for x in range(0):\n        assert x",
    "for x in range(size):\n        assert x",
    "for x, y in zip((1, 2), rows()):\n        assert x",
    "def later():\n        assert 1",
    "rows = ()\n    for x in rows:\n        assert x",
    "for x in ():\n        assert x",
)
SOUND = (
    "assert x",
    "for x in nonempty(elements()):\n        assert x",
    "for x in (1, 2):\n        for y in nonempty(x):\n            helper(y)",
    "for x in enumerate([a, b]):\n        assert x",
    "for x in NAMES:\n        assert x",
    "for x, y in zip(NAMES, rows(), strict=True):\n        assert x",
    "with pytest.raises(ValueError):\n        load()",
    "for x in elements():\n        assert x\n    assert count",
    "for x in range(3):\n        np.testing.assert_allclose(x, y)",
)
MODULE = "NAMES = ('a', 'b')\ndef helper(y):\n    assert y\ndef test_it():\n    {}\n"


@pytest.mark.parametrize("body", VACUOUS)
def test_a_test_that_may_assert_nothing_is_named(body: str) -> None:
    assert vacuous_tests(MODULE.format(body)) == [(4, "test_it")]


@pytest.mark.parametrize("body", SOUND)
def test_a_test_that_always_asserts_is_not(body: str) -> None:
    assert vacuous_tests(MODULE.format(body)) == []


def test_a_loop_over_nothing_fails() -> None:
    assert list(nonempty(iter((3, 4)))) == [3, 4]
    with pytest.raises(AssertionError, match="nothing to look at"):
        list(nonempty([]))
