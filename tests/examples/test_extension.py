"""The example of an extension: all its parts keep their contracts, and a run with them goes from training to reload."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import recsys
from recsys.base import extensions
from recsys.base.errors import ConfigError
from recsys.base.registry import Registry
from recsys.cli import main as cli
from recsys.configs.run import RunConfig, load_config
from recsys.data.reading.sources import SOURCES
from recsys.nn.sequence import ENCODERS
from recsys.ranking.balance import BALANCES
from recsys.ranking.ranker import RANKERS
from recsys.retrieval.baselines import BASELINES
from recsys.retrieval.towers.objective import LOSSES
from recsys.testing import (
    BalanceContract,
    BaselineContract,
    EncoderContract,
    LossContract,
    RankerContract,
    SourceContract,
)

HOME = Path(recsys.__file__).resolve().parent / "examples" / "extension"
NAME = "recsys_example"
REGISTRIES: tuple[Registry[object], ...] = (RANKERS, ENCODERS, BALANCES, BASELINES, LOSSES, SOURCES)  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package can be imported, and what it registers is gone afterwards."""
    monkeypatch.syspath_prepend(HOME)
    for registry in REGISTRIES:
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == NAME]:
        del sys.modules[name]


@pytest.fixture
def _loaded(_apart: None) -> None:
    extensions.load([NAME])


@pytest.mark.usefixtures("_loaded")
class TestRanker(RankerContract):
    cases = {"deep_crossing": {"plain": {"width": 12}, "gated": {"width": 8, "units": 3, "hidden_gate": "tanh"}}}


@pytest.mark.usefixtures("_loaded")
class TestLoss(LossContract):
    cases = {"cosine_contrastive": {"plain": {}, "narrow": {"loss_options": {"margin": 0.0, "weight": 2.0}}}}


@pytest.mark.usefixtures("_loaded")
class TestBaseline(BaselineContract):
    cases = {"newest": {"plain": {}, "often": {"at_least": 3}}}


@pytest.mark.usefixtures("_loaded")
class TestEncoder(EncoderContract):
    cases = {"smooth_max": {"plain": {}, "blunt": {"options": {"sharpness": 1.0}}}}


@pytest.mark.usefixtures("_loaded")
class TestBalance(BalanceContract):
    cases = {"random": {"plain": {}, "alike": {"options": {"spread": 0.0}}}}


@pytest.mark.usefixtures("_loaded")
class TestSource(SourceContract):
    cases = {"jsonl": {"plain": {}}}

    @pytest.fixture(autouse=True)
    def _lines(self, tiny_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type(self), "paths", {"jsonl": as_lines(tiny_world, tmp_path / "lines")})


def as_lines(world: Path, folder: Path) -> Path:
    """The tables of the small world as JSON lines."""
    folder.mkdir()
    for file in world.glob("*.csv"):
        with file.open(newline="") as handle:
            rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(handle)]
        folder.joinpath(f"{file.stem}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def settings(lines: Path) -> list[str]:
    """A run with everything of the extension."""
    return [
        'data.source="jsonl"',
        f'data.path="{lines}"',
        "runtime.threads=1",
        "retrieval.loss=cosine_contrastive",
        "retrieval.loss_options.margin=0.2",
        "retrieval.tower.similarity=cosine",
        "retrieval.tower.dim=8",
        "retrieval.tower.history.encoder=smooth_max",
        "retrieval.fit.epochs=1",
        "retrieval.num_candidates=20",
        'retrieval.baselines=["popularity", "newest"]',
        'retrieval.proposers=["two_tower", "newest"]',
        "retrieval.merge=quota",
        "retrieval.quotas={ two_tower = 4, newest = 16 }",
        'retrieval.scorers=["newest", "popularity"]',
        "ranking.model.kind=deep_crossing",
        "ranking.model.width=12",
        "ranking.balance.kind=random",
        "ranking.balance.options.spread=0.5",
        "ranking.fit.epochs=1",
        "ranking.batch_size=512",
        "evaluation.ks=[5, 20]",
        "evaluation.list_k=5",
        "evaluation.draws=20",
    ]


def test_a_run_with_all_of_it_is_trained_evaluated_asked_and_loaded_again(
    tiny_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = tmp_path / "shop.toml", tmp_path / "runs" / "shop"
    file.write_text(f'extensions = ["{NAME}"]\n' + (tiny_world / "demo.toml").read_text())
    lines = as_lines(tiny_world, tmp_path / "lines")
    recommender = recsys.train(config=file, settings=settings(lines), run=folder)
    report = recommender.evaluate()
    assert {"newest", "popularity", "two_tower"} <= report.to_json()["retrieval"].keys()
    first = recommender.recommend(["1", "2"], k=5)
    assert len(first) == 10
    assert "newest" in "+".join(first["source"])
    again = recsys.load(folder)
    assert again.config.extensions == (NAME,)
    assert again.config.ranking.model.model_dump()["width"] == 12
    assert again.recommend(["1", "2"], k=5).equals(first)

    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if Path(entry) != HOME])
    for name in [name for name in sys.modules if name.split(".")[0] == NAME]:
        del sys.modules[name]
    importlib.invalidate_caches()
    assert cli.main(["recommend", "--run", str(folder), "--user", "1"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert f'the extension "{NAME}" is not installed; install the package that holds it' in said[0]


def test_what_an_installed_package_declares_is_found_without_being_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = tmp_path / "recsys_example-0.1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: recsys-example\nVersion: 0.1.0\n")
    (installed / "entry_points.txt").write_text(f"[{extensions.GROUP}]\n{NAME} = {NAME}\n")
    plain = {"name": "shop", "data": {"events": "events.csv"}, "ranking": {"model": {"kind": "deep_crossing"}}}
    with pytest.raises(ValueError, match="deep_crossing"):
        RunConfig.model_validate(plain)
    monkeypatch.syspath_prepend(tmp_path)
    config = RunConfig.model_validate(plain)
    assert config.ranking.model.model_dump()["units"] == 2
    assert config.extensions == (f"{NAME}.deep_crossing",)
    assert cli.main(["models", "--json"]) == 0
    rows = {row["name"]: row["origin"] for row in json.loads(capsys.readouterr().out)}
    added = ("deep_crossing", "cosine_contrastive", "newest", "smooth_max", "random", "jsonl")
    assert {rows[name].split(".")[0] for name in added} == {NAME}
    assert rows["mmoe"] == rows["in_batch"] == ""
    assert cli.main(["models", "cosine_contrastive"]) == 0
    page = capsys.readouterr().out
    assert "recsys_example.losses, CosineContrastive" in page
    assert "retrieval.loss_options.margin = 0.3" in page


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("retrieval.loss_options.margin=7", "loss cosine_contrastive: margin"),
        ("retrieval.tower.history.options.sharp=1", "history encoder smooth_max: sharp"),
        ("ranking.balance.options.spread=-1", "balance random: spread"),
        ("ranking.model.units=0", "ranking.model.units = 0; expected at least 1"),
        ("ranking.model.unit=3", 'did you mean "ranking.model.units"?'),
        ('data.source="jsonlines"', '"jsonl"'),
        ("retrieval.loss=cosine", '"cosine_contrastive"'),
    ],
)
def test_its_keys_are_validated_by_its_own_classes(tiny_world: Path, tmp_path: Path, options: str, told: str) -> None:
    file = tmp_path / "shop.toml"
    file.write_text(f'extensions = ["{NAME}"]\n' + (tiny_world / "demo.toml").read_text())
    load_config(file, settings(tmp_path))
    with pytest.raises(ConfigError) as caught:
        load_config(file, [*settings(tmp_path), options])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_extension_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "wants_more.py").write_text("import no_such_package_anywhere\n")
    with pytest.raises(ConfigError, match=r'the extension "wants_more" cannot be imported.*no_such_package_anywhere'):
        extensions.load(["wants_more"])
    with pytest.raises(ConfigError, match=r'the extension "nowhere.at_all" is not installed'):
        extensions.load(["nowhere.at_all"])
