"""Reports as self-contained HTML pages: no script, no network, readable on a phone.

The templates hold the structure and escape every text; this file says which sections there are and what each shows. A
section whose data is absent is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jinja2

from .data_charts import data_charts
from .data_check import data_blocks
from .evaluation import differences_table, evaluation_blocks, similar_table
from .folds import fold_blocks
from .sections import (
    config_text,
    estimates,
    example_users,
    funnel_view,
    gates_view,
    index_view,
    properties,
    ranking_view,
    retrieval_view,
)
from .slices import slices_view
from .training import training_curves
from .tuning import tuning_blocks, tuning_charts
from .values import Json, Line, scalar, words
from .variety import variety_view

Section = tuple[str, Callable[[Any], Any]]

SECTIONS: dict[str, Section] = {
    "findings": ("Findings", list),
    "folds": ("Time folds", lambda report: list(fold_blocks(report))),
    "funnel": ("The funnel", funnel_view),
    "retrieval": ("Retrieval", retrieval_view),
    "similar": ("Similar items", similar_table),
    "index": ("Index", index_view),
    "ranking": ("Ranking", ranking_view),
    "gates": ("Gates", gates_view),
    "blend": ("Blend of the tasks", properties),
    "variety": ("Variety", variety_view),
    "training": ("Training", training_curves),
    "slices": ("Slices", slices_view),
    "comparisons": ("Comparison", differences_table),
    "off_policy": ("Off-policy estimates", estimates),
    "examples": ("What users get", example_users),
    "data": ("Data", properties),
    "config": ("Configuration", config_text),
}
"""Key of the evaluation -> heading on the page, and what its template shows; in the order of the page."""


WHOLE = frozenset({"folds", "slices"})
"""Sections that read further keys of the evaluation than their own."""


def evaluation_page(report: Json) -> str:
    """Draw an evaluation.

    Args:
        report: the JSON of `recsys evaluate`. Read are `title`, `protocol` and the keys of `SECTIONS`, all optional:
            `index` with `curve`: [{`label`, `recall`, `p50_ms`}], `ranking` per task with `reliability` and, before a
            calibrator, `reliability_before`, `gates` with `epochs`, `training` per stage with one record an epoch,
            `slices` with `all_slices` and `sliced_by`,
            `examples` (`user`, `history`, `items` with `title`, `score`, `sources`, `hit`).

    Returns:
        A whole HTML document.
    """
    views = {
        key: view(report if key in WHOLE else report[key]) for key, (_, view) in SECTIONS.items() if report.get(key)
    }
    shown = {key: view for key, view in views.items() if view != []}
    protocol = report.get("protocol") or {}
    return _render(
        "evaluation.html.j2",
        title=str(report.get("title", "Offline evaluation")),
        protocol=[f"{words(name)} {scalar(value)}" for name, value in protocol.items() if name != "notes"],
        notes=protocol.get("notes") or [],
        schema_notes=(report.get("data") or {}).get("schema_notes") or [],
        verdict=(report.get("funnel") or {}).get("verdict"),
        headings={key: SECTIONS[key][0] for key in shown},
        **shown,
    )


def data_page(report: Json, title: str) -> str:
    """Draw the data report.

    Args:
        report: the JSON of `recsys data check`.
        title: of the page.

    Returns:
        A whole HTML document.
    """
    return _render("data.html.j2", title=title, blocks=data_blocks(report), charts=data_charts(report))


def tuning_page(account: Json, title: str) -> str:
    """Draw a search over configurations.

    Args:
        account: the JSON of `recsys tune`.
        title: of the page.

    Returns:
        A whole HTML document.
    """
    blocks, charts = tuning_blocks(account), list(tuning_charts(account))
    return _render("data.html.j2", title=title, blocks=blocks, charts=charts)


def evaluation_snippet(report: Json, title: str) -> str:
    """The tables of an evaluation as markup for a notebook's cell, with their style sheet."""
    return _render("notebook.html.j2", title=title, blocks=evaluation_blocks(report))


def _render(template: str, **values: Any) -> str:
    return _templates().get_template(template).render(values)


@cache
def _templates() -> jinja2.Environment:
    """The templates of this package; a name that no template is given is an error, not an empty text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("recsys.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["line"] = lambda block: isinstance(block, Line)
    environment.filters["words"] = words
    return environment
