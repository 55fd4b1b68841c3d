"""What a training will hold is what it holds, what cannot fit is refused, and the advice is the best one."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from recsys.artifacts.folder import open_run
from recsys.base.errors import RunError
from recsys.base.memory import free_memory
from recsys.cli.main import main
from recsys.configs.run import RunConfig
from recsys.funnel.folder import load_run
from recsys.nn.embedding import EmbeddingTable
from recsys.pipeline.forecast import Forecast, Lying, Remedy, Table, forecast
from recsys.pipeline.pace import paces
from recsys.pipeline.train import train
from recsys.ranking.train import build_training
from recsys.report.values import gigabytes
from recsys.retrieval.towers.train import build_towers
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.shop import Shop
from recsys.tests.support.tiny import TinyRun
from recsys.training.optim import Optimizer
from recsys.training.runtime import Runtime


def _held(optimizer: Optimizer) -> int:
    """Bytes of the tables of a model and of what its optimiser keeps for them, counted in the tensors."""
    tables = [module for module in optimizer.model.modules() if isinstance(module, EmbeddingTable)]
    weights = sum(table.weight.numel() * table.weight.element_size() for table in tables)
    kept = {name: tensor for name, tensor in optimizer.state_dict().items() if name.startswith("table/")}
    return weights + sum(t.numel() * t.element_size() for n, t in kept.items() if not n.endswith("/steps"))


@pytest.mark.parametrize("kind", ["adam", "rowwise_adagrad"])
def test_tables_and_moments_are_what_the_models_hold(tiny_run: TinyRun, kind: str) -> None:
    options = [f"{stage}.optim.table_optimizer={kind}" for stage in ("retrieval", "ranking")]
    options += ["retrieval.tower.similarity=cosine", "ranking.select.enabled=false"]
    config = tiny_run.config(*options, "retrieval.fit.metric=", "ranking.fit.metric=")
    dataset = load_run(open_run(tiny_run.folder)).dataset
    towers, ranker = forecast(dataset, config).tables
    built = build_towers(dataset, config.retrieval, 1)
    assert towers.rows == built.model.table.weight.shape[0]
    assert towers.width == built.model.table.weight.shape[1]
    training = build_training(dataset, config.ranking, Runtime(1), 1)
    assert ranker.rows == training.ranker.tables()[0].weight.shape[0]
    for optimizer, table in ((built.optimizer, towers), (training.optimizer, ranker)):
        for one in optimizer.tables.values():
            one.table.weight.grad = torch.sparse_coo_tensor(
                torch.tensor([[2]]), torch.ones(1, table.width), one.table.weight.shape, check_invariants=False
            )
        optimizer.step()
        assert table.bytes() == pytest.approx(_held(optimizer), rel=0.02)


def test_the_best_epoch_and_several_seeds_are_held_beside_what_is_trained(tiny_run: TinyRun) -> None:
    dataset = load_run(open_run(tiny_run.folder)).dataset
    alone = forecast(dataset, tiny_run.config("retrieval.fit.metric=", "ranking.fit.metric=")).tables
    chosen = forecast(dataset, tiny_run.config("ensemble.seeds=3")).tables
    for one, three in nonempty(zip(alone, chosen, strict=True)):
        assert three.bytes() == 6 * one.bytes()


@pytest.mark.skipif(free_memory() is None, reason="the system does not say how much memory is free")
def test_a_training_that_cannot_fit_is_refused_before_it_starts(shop: Shop) -> None:
    """The sentence names what is needed, what is free, what is largest, and the setting that saves most."""
    config = _of(shop, tower={"dim": 1_000_000_000})
    with pytest.raises(
        RunError, match=r"needs .* GB of memory beside its data, and .* free.*embeddings of retrieval"
    ) as told:
        train(shop.dataset(), config)
    best = forecast(shop.dataset(), config).remedies[0]
    assert f"{best.setting} saves {gigabytes(best.bytes)}, more than any other setting" in str(told.value)
    assert forecast(shop.dataset(), _of(shop)).fits


def _of(shop: Shop, **retrieval: Any) -> RunConfig:
    section = {"positive": "click", "num_candidates": 10, "baselines": ["popularity"], **retrieval}
    data, judged = shop.config().model_dump(), {"ks": [5], "list_k": 5}
    return RunConfig.model_validate({"name": "shop", "data": data, "retrieval": section, "evaluation": judged})


def test_the_setting_that_is_named_saves_what_it_says_and_most(tiny_run: TinyRun) -> None:
    """Each remedy is applied and the forecast is made again."""
    dataset = load_run(open_run(tiny_run.folder)).dataset
    config = tiny_run.config("retrieval.tower.dim=64", "ensemble.seeds=2")
    before = forecast(dataset, config)
    saved = {}
    for remedy in before.remedies:
        if " = " not in remedy.setting or "max_rows" in remedy.setting:
            continue
        key, value = remedy.setting.split(" = ")
        after = forecast(
            dataset, tiny_run.config("retrieval.tower.dim=64", "ensemble.seeds=2", f"{key}={value.strip(chr(34))}")
        )
        saved[remedy.setting] = _embedded(before) - _embedded(after)
        assert saved[remedy.setting] == pytest.approx(remedy.bytes, rel=0.02)
    assert len(saved) >= 5
    assert before.remedies[0].bytes == max(remedy.bytes for remedy in before.remedies)


def _embedded(found: Forecast) -> int:
    return sum(table.bytes() for table in found.tables)


def test_a_matrix_of_all_pairs_is_told(shop: Shop) -> None:
    dataset = shop.dataset()
    large = forecast(dataset, _of(shop, baselines=["popularity", "ease"], scorers=["ease"]))
    ease = next(one for one in large.holdings if one.name == "the baseline ease")
    assert ease.bytes == dataset.num_catalogue**2 * 20
    assert Remedy('"ease" taken out of retrieval.baselines and retrieval.scorers', ease.bytes) in large.remedies
    assert "the baseline ease" not in {one.name for one in forecast(dataset, _of(shop, scorers=[])).holdings}


def test_data_check_tells_memory_and_minutes(tiny_run: TinyRun, capsys: pytest.CaptureFixture[str]) -> None:
    config = [str(tiny_run.config_file), "--set", "retrieval.fit.epochs=5", "--set", "ranking.fit.epochs=2"]
    assert main(["data", "check", *config, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["stage"] for one in told["memory"]["tables"]] == ["retrieval", "ranking"]
    assert told["memory"]["total"] > told["memory"]["training"] > 0
    for one in nonempty(told["minutes"]):
        assert one["minutes"] == pytest.approx(one["steps"] * one["step_ms"] / 60_000)
        assert one["steps"] > 0 < one["step_ms"]
    assert main(["data", "check", *config, "--no-minutes"]) == 0
    shown = capsys.readouterr().out
    assert "what saves most" in shown
    assert "Embedding tables" in shown
    assert "minutes" not in shown


def test_free_memory_is_some_of_it_or_unknown() -> None:
    found = free_memory()
    assert found is None or 0 <= found < 1 << 50


def test_pieces_take_their_share_of_each_machine() -> None:
    def table(lying: Lying) -> Table:
        return Table("ranking", {"user": 1000, "item": 10}, 4, "rowwise_adagrad", 1, lying)

    alone, whole = table(Lying()).bytes(), table(Lying(processes=2)).bytes()
    assert whole == 2 * alone
    assert table(Lying(processes=2, pieces=2, smallest=100)).bytes() == (1000 + 2 * 10) * 5 * 4
    assert table(Lying(processes=2, pieces=8, smallest=100)).bytes() == (250 + 2 * 10) * 5 * 4


def test_a_last_fit_is_foretold(tiny_run: TinyRun) -> None:
    """The towers are trained twice, and the ranker where it learns no `select`, whose weights are kept."""
    dataset = load_run(open_run(tiny_run.folder)).dataset

    def steps(*settings: str) -> list[int]:
        return [pace.steps for pace in paces(dataset, tiny_run.config(*settings))]

    towers, ranker = steps()
    assert steps('final.rows="valid"') == [2 * towers, ranker]
    assert steps('final.rows="valid"', "ranking.select.enabled=false") == [2 * towers, 2 * ranker]
    assert steps('final.rows="auto"') == [2 * towers, ranker]
