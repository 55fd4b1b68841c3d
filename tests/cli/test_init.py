"""`recsys init`: a file that loads and trains as it stands."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from recsys.artifacts.folder import open_run
from recsys.cli.main import main
from recsys.configs.file import recipe
from recsys.configs.run import load_config
from recsys.data.build import load_dataset
from recsys.data.reading.columns import as_time
from recsys.data.reading.keys import read_configured
from recsys.data.reading.tables import BadRows
from recsys.data.world.simulate import SimulateConfig, simulate


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "tables"
    simulate(SimulateConfig(users=60, items=60, sessions=150, seed=2), folder)
    return folder


def arguments(world: Path, out: Path) -> list[str]:
    tables = [str(world / "events.csv"), "--items", str(world / "items.csv"), "--users", str(world / "users.csv")]
    return ["init", *tables, "--out", str(out)]


def test_the_file_loads_trains_and_answers_as_it_stands(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "configs").mkdir()
    file = tmp_path / "configs" / "shop.toml"
    assert main(arguments(world, file)) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{file}\n"
    assert f"recsys train {file}" in captured.err
    assert '"session_id" is left out' in captured.err
    config = load_config(file)
    assert [task.name for task in config.data.tasks] == ["click", "conversion"]
    assert config.data.tasks[1].where == "click"
    assert config.retrieval.positive == "click"
    assert not Path(config.data.events if isinstance(config.data.events, str) else "").is_absolute()
    run = tmp_path / "run"
    quick = ["--set", "retrieval.fit.epochs=1", "--set", "ranking.fit.epochs=1"]
    assert main(["train", str(file), "--run", str(run), *quick]) == 0
    assert main(["recommend", "--run", str(run), "--user", "1", "--json"]) == 0
    assert open_run(run).manifest.data_fingerprint


def test_a_recipe_is_written_into_the_file(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "shop.toml"
    assert main([*arguments(world, file), "--recipe", "hstu"]) == 0
    assert "[retrieval] # hstu as published" in file.read_text(encoding="utf-8")
    config, published = load_config(file), recipe("hstu")["retrieval"]
    assert config.retrieval.tower.history.encoder == "hstu"
    assert config.retrieval.tower.dim == published["tower"]["dim"]
    assert config.retrieval.positive == "click"
    fit = config.retrieval.fit  # too few rows to stop by: not the epochs of the recipe
    assert (fit.metric, fit.epochs, fit.patience) == ("", 20, 0)
    capsys.readouterr()
    assert main([*arguments(world, tmp_path / "other.toml"), "--recipe", "hstuu"]) == 2
    assert 'no recipe "hstuu"; there are: bert4rec' in capsys.readouterr().err
    assert not (tmp_path / "other.toml").exists()


def test_a_file_that_is_there_stays_unless_forced(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("mine")
    assert main(arguments(world, file)) == 2
    assert "--force" in capsys.readouterr().err
    assert file.read_text() == "mine"
    assert main([*arguments(world, file), "--force"]) == 0
    assert load_config(file).name == "mine"


def test_it_needs_no_models(world: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from recsys.cli.main import main
assert main({arguments(world, tmp_path / "light.toml")!r}) == 0
assert "torch" not in sys.modules and "faiss" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_numbers_with_a_comma_are_read_as_they_are_meant(tmp_path: Path) -> None:
    rows = [
        f"k{row % 12};a{row * 7 % 17};{'4,5' if row % 3 else '1,0'};{1_700_000_000 + row * 3_600}" for row in range(200)
    ]
    events = tmp_path / "kauf.csv"
    events.write_text("\n".join(["Kundennummer;Artikelnummer;Bewertung;Zeitstempel", *rows]))
    file = tmp_path / "kauf.toml"
    assert main(["init", str(events), "--out", str(file), "--task", "Bewertung"]) == 0
    config = load_config(file).data
    assert (config.delimiter, config.decimal) == (";", ",")
    labels = load_dataset(config, tmp_path, seed=1).events.labels[:, 0]
    assert labels.sum() == sum("4,5" in row for row in rows)


GERMAN = {
    "zeit": [f"{day:02d}.01.2024 {hour:02d}:30" for day in range(1, 26) for hour in (8, 20)],
    "kunde": [f"k{n % 7}" for n in range(50)],
    "artikel": [f"a{n * 3 % 11}" for n in range(50)],
    "preis": ["k.A." if n % 9 == 0 else "NA" if n % 7 == 0 else str(n) for n in range(50)],
    "gekauft": [n % 3 // 2 for n in range(50)],
}


def test_a_table_of_another_encoding_format_and_zone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the options say stands in the configuration, and dates in one possible format need no option."""
    frame = pd.DataFrame(GERMAN | {"ort": ["Köln"] * 25 + ["Zürich"] * 25})
    log = tmp_path / "log.csv"
    frame.to_csv(log, index=False, encoding="cp1252")
    asked = [
        "init",
        str(log),
        "--out",
        str(tmp_path / "log.toml"),
        "--user-column",
        "kunde",
        "--item-column",
        "artikel",
    ]
    assert (
        main([*asked, "--encoding", "cp1252", "--time-zone", "Europe/Berlin", "--missing", "k.A.", "--missing", "NA"])
        == 0
    )
    config = load_config(tmp_path / "log.toml").data
    assert (config.encoding, config.time, config.time_format) == ("cp1252", "zeit", "%d.%m.%Y %H:%M")
    assert (config.time_zone, config.missing) == ("Europe/Berlin", ("k.A.", "NA"))
    assert config.feature("preis").kind == "numeric"
    assert 'dates written as "%d.%m.%Y %H:%M"' in capsys.readouterr().err
    tables = read_configured(config, tmp_path, BadRows())
    first = as_time(tables, "events", "zeit", BadRows())[0]
    assert first == datetime(2024, 1, 1, 7, 30, tzinfo=UTC).timestamp() * 1000


def test_words_among_numbers_are_found_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame(
        {**GERMAN, "preis": ["NA" if n % 7 == 0 else str(n) for n in range(50)], "kunde_id": ["-", "1"] * 25}
    )
    log = tmp_path / "log.csv"
    frame.to_csv(log, index=False)
    asked = [
        "init",
        str(log),
        "--out",
        str(tmp_path / "log.toml"),
        "--user-column",
        "kunde",
        "--item-column",
        "artikel",
    ]
    assert main(asked) == 0
    assert load_config(tmp_path / "log.toml").data.missing == ("NA",)
    assert '"NA" stands among numbers and is taken for a missing value' in capsys.readouterr().err


def test_a_western_european_export_is_read_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"k{row % 12};Größe {row * 7 % 11};{row % 2}" for row in range(60)]
    for name, encoding in (("west", "cp1252"), ("plain", "utf-8")):
        file = tmp_path / f"{name}.csv"
        file.write_bytes("\n".join(["kunde_id;item;gekauft", *rows]).encode(encoding))
        assert main(["init", str(file), "--user-column", "kunde_id", "--out", str(tmp_path / f"{name}.toml")]) == 0
        told = capsys.readouterr().err
        assert ("read as cp1252" in told) == (encoding == "cp1252")
        config = load_config(tmp_path / f"{name}.toml").data
        assert config.encoding == encoding
        assert "Größe 7" in load_dataset(config, tmp_path, 1).item_ids
    both = tmp_path / "both.toml"
    (tmp_path / "items.csv").write_bytes("item;farbe\nGröße 7;grün\n".encode())
    named = ["--items", str(tmp_path / "items.csv"), "--user-column", "kunde_id", "--out", str(both)]
    assert main(["init", str(tmp_path / "west.csv"), *named]) != 0  # of two encodings none is right
    assert "UTF-8" in capsys.readouterr().err
