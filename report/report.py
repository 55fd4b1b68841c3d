"""An evaluation as an object: it prints its tables, shows itself in a notebook, and gives a frame, a page or JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.files import write_whole
from .values import is_number, plain

if TYPE_CHECKING:
    import pandas as pd

Json = Mapping[str, Any]
FRAME_COLUMNS = ("section", "name", "metric", "value", "low", "high")


class Report(Mapping[str, Any]):
    """The result of an evaluation, section by section.

    `print(report)` shows its tables, a notebook shows them as HTML, and `report["retrieval"]` is a section as plain
    values: the JSON of `recsys evaluate`.

    Example:
        >>> report = Report({"ranking": {"click": {"auc": 0.75, "auc_ci": [0.74, 0.76]}}}, "Evaluation of shop")
        >>> report["ranking"]["click"]["auc"]
        0.75
        >>> report.to_frame()[["section", "name", "metric", "value"]].values.tolist()
        [['ranking', 'click', 'auc', 0.75]]
    """

    def __init__(self, result: Json, title: str = "") -> None:
        """Take the JSON of an evaluation.

        Args:
            result: as of `pipeline.evaluate.evaluate_run` or `pipeline.external.evaluate_predictions`.
            title: heading of the page and of the notebook's cell; by default that of the result.
        """
        self._result: dict[str, Any] = plain(result)
        self.title = title or str(self._result.get("title", "Evaluation"))

    def __getitem__(self, section: str) -> Any:
        """A section as plain values.

        Raises:
            KeyError: there is no such section; the message names those there are.
        """
        if section not in self._result:
            raise KeyError(f"no section '{section}'; there are: {', '.join(self._result)}")
        return self._result[section]

    def __iter__(self) -> Iterator[str]:
        return iter(self._result)

    def __len__(self) -> int:
        return len(self._result)

    def __repr__(self) -> str:
        groups = {"retrieval": "retrieval of", "ranking": "ranking of", "findings": "findings:"}
        parts = [f"{words} {', '.join(_names(self._result[key]))}" for key, words in groups.items() if self.get(key)]
        parts += ["funnel"] if self.get("funnel") else []
        return f"<Report {self.title!r}: {'; '.join(parts) or 'no section'}; print() shows its tables>"

    def __str__(self) -> str:
        from .evaluation import evaluation_blocks
        from .terminal import plain_text

        return f"{self.title}\n{plain_text(evaluation_blocks(self._result))}"

    def _repr_html_(self) -> str:
        from .page import evaluation_snippet

        return evaluation_snippet(self._result, self.title)

    def to_json(self) -> dict[str, Any]:
        """The whole result as plain values; NaN and infinity are None."""
        return dict(self._result)

    def to_html(self, path: str | PathLike[str]) -> Path:
        """Write the page, one HTML file that needs nothing else, and return its path."""
        from .page import evaluation_page

        file = Path(path)
        write_whole(file, evaluation_page({**self._result, "title": self.title}))
        return file

    def to_frame(self) -> pd.DataFrame:
        """Every number as a row.

        Returns:
            A frame with the columns `section` (`retrieval`, `index`, `ranking`, `blend`, `funnel`, `funnel.stages`,
            `funnel.ranker`, `funnel.retrievers`, `funnel.sources`, `off_policy`, `slices`), `name` (the retriever,
            task, stage or slice; empty where a section is about one thing), `metric`, `value`, and `low` and `high`,
            the ends of its interval. What is undefined is NaN.
        """
        import pandas as pd

        frame = pd.DataFrame(_rows(self._result), columns=list(FRAME_COLUMNS))
        return frame.astype({"value": "float64", "low": "float64", "high": "float64"})


def _rows(result: Json) -> Iterator[tuple[Any, ...]]:
    for section in ("retrieval", "ranking"):
        for name, values in (result.get(section) or {}).items():
            yield from _numbers(section, name, values)
    for section in ("index", "off_policy"):
        yield from _numbers(section, "", result.get(section) or {})
    for task, weight in ((result.get("blend") or {}).get("weights") or {}).items():
        yield "blend", task, "weight", weight, None, None
    funnel = result.get("funnel") or {}
    yield from _numbers("funnel", "", funnel)
    yield from _numbers("funnel.ranker", "", funnel.get("ranker") or {})
    for stage in funnel.get("stages") or ():
        yield from _numbers("funnel.stages", stage["stage"], stage)
    for group in ("retrievers", "sources"):
        for name, values in (funnel.get(group) or {}).items():
            yield from _numbers(f"funnel.{group}", name, values)
    for entry in result.get("all_slices") or result.get("slices") or ():
        name = f"{entry['column']}: {entry['value']}"
        yield "slices", name, entry["metric"], entry["estimate"], entry["low"], entry["high"]


def _numbers(section: str, name: str, values: Json) -> Iterator[tuple[Any, ...]]:
    """A row for each number of a flat report, undefined ones among them."""
    for metric, value in values.items():
        if is_number(metric, value) or (value is None and not metric.endswith("_ci")):
            low, high = values.get(f"{metric}_ci") or (None, None)
            yield section, name, metric, value, low, high


def _names(section: Any) -> list[str]:
    """Names of what a section is about: its keys, or those of its findings."""
    return [str(entry["name"]) for entry in section] if isinstance(section, list) else list(section)
