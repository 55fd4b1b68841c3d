"""How a contract is asked of the things it is for: pytest collects a subclass that names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest

from .toy import Toy

Cases = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Name of what is tested -> label -> a table of keys."""


class Contract:
    """Base of all contracts.

    A subclass is a test class of pytest, and says in `cases` what is tested.
    """

    cases: ClassVar[Cases] = {}
    """What is tested, each with every table of keys, such as `{"mine": {"plain": {}, "wide": {"hidden": (64,)}}}`; a
    test that takes no keys is run once for each name."""

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Ask every test for every name, and for every table of keys where it takes `keys`."""
        wanted = metafunc.fixturenames
        if "keys" in wanted:
            pairs = [
                pytest.param(kind, keys, id=f"{kind}-{label}")
                for kind, tables in self.cases.items()
                for label, keys in tables.items()
            ]
            metafunc.parametrize(("kind", "keys"), pairs)
        for name, kinds in self.groups().items():
            if name in wanted and not (name == "kind" and "keys" in wanted):
                metafunc.parametrize(name, kinds)

    def groups(self) -> Mapping[str, Sequence[str]]:
        """Name of an argument -> the names it is given; subclasses add some that not all belong to."""
        return {"kind": list(self.cases)}

    @pytest.fixture
    def toy(self) -> Toy:
        """See `Toy`."""
        return Toy()
