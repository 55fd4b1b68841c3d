"""What the tables of trained models have in common: a data set, finished seeds, and the loop over the variants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from recsys.benchmarks.harness.finished import Done
from recsys.benchmarks.harness.results import Book, Record
from recsys.benchmarks.harness.session import Session, say
from recsys.configs.run import RunConfig
from recsys.data.dataset import Dataset


@dataclass
class Lab:
    """A data set and the command line it is measured with; a script adds what it trains.

    Attributes:
        table: begins the name of the folder of finished seeds.
    """

    table: ClassVar[str]

    session: Session
    config: RunConfig
    dataset: Dataset

    @cached_property
    def done(self) -> Done:
        """Finished seeds of this table on this data set."""
        data = getattr(self.session.args, "data", "")
        return Done(self.session.args.cache / (f"{self.table}-{data}" if data else self.table))


def paragraphs(docstring: str | None, count: int = 2) -> list[str]:
    """The paragraphs of a script's docstring behind its first sentence, a line each: the text above a table."""
    return [" ".join(text.split()) for text in (docstring or "").split("\n\n")[1 : count + 1]]


def fill(book: Book, session: Session, names: Sequence[str], data: str, record: Callable[[str], Record]) -> None:
    """Measure the variants that the book lacks, one after the other; `--again` measures all of them.

    Args:
        book: gets a record a variant.
        session: its seeds are what a complete record has.
        names: variants.
        data: sha256 of the source files, or what the data is called.
        record: measures one variant.
    """
    for number, name in enumerate(names, 1):
        if book.has(name, session.seeds, data) and not session.args.again:
            continue
        say(f"{number}/{len(names)} {name}")
        book.add(record(name))
