"""Commented TOML says what the table says."""

from __future__ import annotations

import tomllib

from recsys.configs.commented import commented_toml


def test_the_text_reads_back_as_the_table() -> None:
    table = {
        "name": "a",
        "data": {
            "delimiter": "\t",
            "events": ["a.csv", 'b "x".csv'],
            "split": {"kind": "column", "parts": {"my file": "train"}},
            "features": [{"name": "u id", "bins": 4, "of": []}, {"name": "ü", "scale": False, "share": 0.5}],
        },
        "retrieval": {"tower": {"dim": 8}},
        "empty": {},
    }
    reasons = {("data", "features", "ü"): "text\nof two # lines", ("retrieval", "tower", "dim"): "few rows"}
    text = commented_toml(table, reasons, ["a head"])
    read = tomllib.loads(text)
    assert read == {key: value for key, value in table.items() if key != "empty"}
    assert text.startswith("# a head\n")
    assert "[[data.features]] # text of two # lines\n" in text
    assert "dim = 8 # few rows\n" in text
