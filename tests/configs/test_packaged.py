"""A packaged configuration is found by its name, from any folder, and says which data it lacks."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from recsys.base.errors import ConfigError
from recsys.cli.main import main
from recsys.configs import packaged
from recsys.configs.packaged import FOLDER, open_config, packaged_names
from recsys.configs.run import load_config


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder of a person who installed the package: no data set lies near the configurations."""
    site = tmp_path / "a" / "b" / "configs"
    shutil.copytree(FOLDER, site, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    monkeypatch.setattr(packaged, "FOLDER", site)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_names_are_the_files() -> None:
    assert {"demo", "movielens-1m", "census-income"} <= set(packaged_names())
    assert all((FOLDER / f"{name}.toml").is_file() for name in packaged_names())


def test_a_name_with_its_data_is_the_file_with_paths_from_the_present_folder(elsewhere: Path) -> None:
    config, base = open_config(Path("movielens-1m-lstm"), ["data.path=data/ml-1m.zip", "seed=5"])
    assert (config.data.path, base, config.seed) == ("data/ml-1m.zip", Path(), 5)
    same = load_config(FOLDER / "movielens-1m-lstm.toml", ["data.path=data/ml-1m.zip", "seed=5"])
    assert config == same


def test_data_beside_the_package_is_found_from_any_folder(elsewhere: Path) -> None:
    for table in ("events.csv", "users.csv", "items.csv"):
        (packaged.FOLDER / table).touch()
    config, base = open_config(Path("demo"))
    assert base / config.data.events == packaged.FOLDER / "events.csv"  # type: ignore[operator]


def test_a_typed_path_starts_from_the_present_folder_though_the_package_names_one_alike(elsewhere: Path) -> None:
    tables = [f'data.{name}="{name}.csv"' for name in ("users", "items")]
    config, base = open_config(Path("demo"), ['data.events=["events.csv"]', *tables])
    assert (config.data.events, config.data.users, config.data.items, base) == (
        ("events.csv",),
        "users.csv",
        "items.csv",
        Path(),
    )


def test_a_file_goes_before_a_name(elsewhere: Path) -> None:
    shutil.copy(FOLDER / "demo.toml", elsewhere / "kuairand")
    config, base = open_config(Path("kuairand"))
    assert (config.name, base) == ("demo", Path())


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("movielens", "no file movielens and no packaged configuration of that name; did you mean movielens-1m?"),
        ("zzz", f"the packaged ones are {', '.join(packaged_names())}"),
        ("movielens-1m", "GroupLens (ml-1m.zip, ml-100k.zip or ml-latest-small.zip), which is not in the package; "),
        ("movielens-1m", "say where it is with --set data.path=PATH"),
        ("census-income", "reads Census-Income (KDD) of the UCI repository (census-income.data and"),
        (
            "kuairand",
            "reads KuaiRand-Pure of its authors (KuaiRand-Pure.tar.gz, unpacked), which is not in the package",
        ),
        ("adult", """with --set 'data.events=["FOLDER/adult.data", "FOLDER/adult.test"]'"""),
        ("demo", """--set 'data.events="FOLDER/events.csv"' --set 'data.users="FOLDER/users.csv"'"""),
    ],
)
def test_an_unknown_name_and_absent_data_are_one_sentence(elsewhere: Path, name: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        open_config(Path(name))


def test_the_command_line_takes_a_name(
    tiny_world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiny_world.parent)
    tables = [f"data.{key}={tiny_world.name}/{key}.csv" for key in ("events", "users", "items")]
    options = [word for table in tables for word in ("--set", table)]
    assert main(["data", "check", "demo", *options, "--json"]) == 0
    assert '"events": 4800' in capsys.readouterr().out
    assert main(["train", "demos"]) == 2
    assert "did you mean demo?" in capsys.readouterr().err
    assert main(["models"]) == 0
    assert "movielens-1m-lstm" in capsys.readouterr().out
