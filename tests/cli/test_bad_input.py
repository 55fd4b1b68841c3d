"""Bad input is answered as a person would: which file, which line, which column, what was found, what was expected."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.artifacts.folder import RunWriter
from recsys.cli.main import main

EVENTS = "user_id,item_id,timestamp,click\n" + "".join(
    f"{user},{10 + (user + step) % 5},{1_700_000_000 + 1000 * step + user},{(user + step) % 2}\n"
    for step in range(8)
    for user in range(1, 7)
)
ITEMS = "item_id,genre,price\n10,a,1.5\n11,b,2\n12,a,3\n13,b,4\n14,c,5\n"
CONFIG = """[data]
events = "events.csv"
items = "items.csv"

[[data.features]]
name = "user_id"
side = "user"

[[data.features]]
name = "item_id"
side = "item"

[[data.features]]
name = "genre"
side = "item"

[[data.features]]
name = "price"
side = "item"
kind = "numeric"

[[data.tasks]]
name = "click"
"""

Change = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small data set in a folder of its own, which is where the command runs."""
    (tmp_path / "events.csv").write_text(EVENTS)
    (tmp_path / "items.csv").write_text(ITEMS)
    (tmp_path / "shop.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def replace(name: str, old: str, new: str, times: int = 1) -> Change:
    """Change a text file."""

    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, times))

    return change


def line(number: int, text: str) -> Change:
    """Replace a line of the events (the header is line 1)."""

    def change(folder: Path) -> None:
        lines = (folder / "events.csv").read_text().splitlines()
        lines[number - 1] = text
        (folder / "events.csv").write_text("\n".join(lines) + "\n")

    return change


DATA: dict[str, tuple[Change, list[str]]] = {
    "missing file": (lambda f: (f / "items.csv").unlink(), ["items.csv"]),
    "missing column": (replace("events.csv", "timestamp", "when"), ["events.csv", '"timestamp"', "when"]),
    "missing label column": (replace("events.csv", ",click", ",clicked"), ["events.csv", '"click"', "clicked"]),
    "missing feature column": (replace("items.csv", "genre", "kind"), ["items.csv", '"genre"', "kind"]),
    "no number": (replace("items.csv", "2\n", "cheap\n"), ["items.csv", "line 3", '"price"', '"cheap"', "number"]),
    "duplicate id": (replace("items.csv", "11,b", "10,b"), ["items.csv", "line 3", '"item_id"', "10"]),
    "null id": (line(5, ",12,1700000000,1"), ["events.csv", "line 5", '"user_id"', "nothing"]),
    "no time": (line(6, "2,12,yesterday,1"), ["events.csv", "line 6", '"timestamp"', '"yesterday"', "time"]),
    "label out of range": (line(7, "2,12,1700000000,7"), ["events.csv", "line 7", '"click"', "7", "0 or 1"]),
    "too many values": (line(8, "2,12,1700000000,1,9"), ["events.csv", "line 8"]),
    "empty table": (lambda f: (f / "events.csv").write_text("user_id,item_id,timestamp,click\n"), ["events.csv"]),
    "no header": (lambda f: (f / "events.csv").write_text(""), ["events.csv"]),
    "empty split": (replace("shop.toml", "[data]", '[data]\nsplit = { test_from = "2035-01-01" }'), ["test"]),
    "unreadable date": (replace("shop.toml", "[data]", '[data]\nsplit = { test_from = "May" }'), ['"May"', "date"]),
}


@pytest.mark.parametrize("case", list(DATA))
@pytest.mark.parametrize("verb", ["data check", "train"])
def test_bad_data_is_one_sentence_with_its_place(
    verb: str, case: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, words = DATA[case]
    change(folder)
    before = sorted(os.listdir(folder))
    code = main([*verb.split(), "shop.toml"])
    out, err = capsys.readouterr()
    errors = [text for text in err.splitlines() if text.startswith("error: ")]
    assert len(errors) == 1, err
    for word in words:
        assert word in errors[0]
    assert "unexpected" not in err
    assert code in (1, 2)
    assert out == ""
    assert sorted(set(os.listdir(folder)) - {"runs"}) == before
    assert not (folder / "runs").exists() or os.listdir(folder / "runs") == []


def test_good_data_is_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "shop.toml", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["rows"] == {"events": 48, "items": 5}
    assert report["parts"].keys() == {"train", "valid", "test"}


def test_bad_rows_are_dropped_and_counted_when_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line(6, "2,12,yesterday,1")(folder)
    assert main(["data", "check", "shop.toml", "--json", "--set", "data.on_bad_rows=drop"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["rows"]["events"] == 47
    assert report["dropped_rows"] == 1


CONFIGS = {
    "unknown key": (
        "num_experts = 3\n" + CONFIG,
        'shop.toml, line 1: "num_experts" is no key of the configuration; did',
    ),
    "unknown section": (
        CONFIG + "[retreival]\n",
        '"retreival" is no key of the configuration; did you mean "retrieval"?',
    ),
    "wrong type": ('seed = "1"\n' + CONFIG, 'shop.toml, line 1: seed = "1"; expected a whole number'),
    "out of range": (CONFIG + "[retrieval]\nnum_candidates = 0\n", "retrieval.num_candidates = 0; expected at least 1"),
    "no such choice": (
        CONFIG.replace('"numeric"', '"number"'),
        'line 20: data.features.3.kind = "number"; expected "cat',
    ),
    "no such ranker": (
        CONFIG + '[ranking.model]\nkind = "mmo"\n',
        'ranking.model.kind = "mmo"; expected one of aitm, ',
    ),
    "no such task": (CONFIG + 'where = "buy"\n', 'where = "buy" must be an earlier task'),
    "no data": ("seed = 1\n", 'shop.toml: "data" is missing; add it'),
    "no TOML": ("seed = \n", "shop.toml is not valid TOML"),
}


@pytest.mark.parametrize("case", list(CONFIGS))
def test_a_bad_configuration_names_the_line_and_the_key(
    case: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, sentence = CONFIGS[case]
    (folder / "shop.toml").write_text(text)
    assert main(["train", "shop.toml"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert sentence in err
    assert err.count("\n") == 1


def test_a_missing_configuration_names_its_neighbour(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "shopp.toml"]) == 2
    assert capsys.readouterr().err == "error: there is no configuration file shopp.toml; did you mean shop.toml?\n"


RUNS: dict[str, tuple[Change, str]] = {
    "no run": (lambda run: os.rename(run, run.with_name("b")), "there is no run at runs/a; runs in runs: b"),
    "another version": (
        replace("manifest.json", '"format_version": 2', '"format_version": 3'),
        "manifest.json has format version 3, this recsys",
    ),
    "truncated": (lambda run: os.truncate(run / "config.toml", 3), "runs/a/config.toml is truncated: found 3 bytes"),
    "tampered": (replace("config.toml", "seed", "sead"), "runs/a/config.toml was changed after it was written"),
    "missing file": (lambda run: (run / "config.toml").unlink(), "runs/a/config.toml is missing"),
    "no manifest": (lambda run: (run / "manifest.json").unlink(), "runs/a has no manifest.json: it is no run"),
}


@pytest.mark.parametrize("case", list(RUNS))
@pytest.mark.parametrize("verb", ["recommend --user 1", "evaluate", "build-index"])
def test_a_bad_run_names_the_file_at_fault(
    verb: str, case: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunWriter(folder / "runs/a", seed=0, config_hash="") as writer:
        writer.file("config.toml").write_text("seed = 1\n")
    change, sentence = RUNS[case]
    change(folder / "runs/a")
    assert main([*verb.split(), "--run", "runs/a"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert sentence in err
    assert err.count("\n") == 1


def test_no_run_at_all_says_how_to_get_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--user", "1"]) == 1
    assert "train one with `recsys train CONFIG`" in capsys.readouterr().err
