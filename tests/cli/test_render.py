"""JSON that is JSON, and a list of recommendations with every score asked for."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from recsys.cli import render


def test_json_is_strict_whatever_the_report_is_made_of(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"a": np.float32(1.5), "b": float("nan"), "c": np.array([1, 2]), "d": (1, np.inf), "é": {3: None}}
    render.print_json(value)
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert json.loads(line) == {"a": 1.5, "b": None, "c": [1, 2], "d": [1, None], "é": {"3": None}}
    assert "é" in line


def test_a_list_shows_each_score_and_where_an_item_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    items: list[dict[str, Any]] = [
        {
            "item": "7",
            "title": "Film [Director's Cut]",
            "score": 0.91,
            "tasks": {"click": 0.4},
            "sources": ["two_tower"],
        },
        {"item": "8", "score": 0.5, "tasks": {}, "sources": ["popular", "item_knn"], "why": {"rung": "popular"}},
    ]
    answer = {"user": "42", "known": False, "rung": "popular", "candidates": 100, "short": 1, "items": items}
    render.print_recommendation(answer)
    shown = capsys.readouterr().out
    for expected in (
        "For user 42, who is unknown: popular among everybody",
        "Film [Director's Cut]",
        "0.9100",
        "0.4000",
        "popular, item_knn",
        "only 2 of 3: no other item is allowed and new to this user",
    ):
        assert expected in shown


@pytest.mark.parametrize("title", ["[rec] (2007)", "Alive [live]", "Go :smile: now", "Best of [/b]", "[/x]", "\\[red]"])
def test_text_of_the_data_is_no_markup(title: str, capsys: pytest.CaptureFixture[str]) -> None:
    item = {"item": "7", "title": title, "score": 0.5, "tasks": {"[/like]": 0.4}, "sources": ["popular"]}
    render.print_recommendation(
        {"user": "[/u]", "known": True, "rung": "history", "candidates": 1, "short": 0, "items": [item]}
    )
    shown = capsys.readouterr().out
    assert f" {title} " in shown
    assert "[/like]" in shown
    assert "For user [/u]" in shown


def test_models_name_each_kind_once(capsys: pytest.CaptureFixture[str]) -> None:
    entries = [
        {"kind": kind, "name": name, "summary": "A model.", "paper": "Ma 2018", "origin": ""}
        for kind, name in (("ranker", "mmoe"), ("ranker", "ple"), ("loss", "bce"))
    ]
    render.print_models(entries)
    shown = capsys.readouterr().out
    assert (shown.count("ranker"), shown.count("loss"), shown.count("A model.")) == (1, 1, 3)
