"""The chain: the ranker begins with the retriever's rows, matched by raw id, in its own width and at its own spread."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.artifacts.folder import open_run
from recsys.artifacts.names import WARM_START
from recsys.base.errors import ConfigError, DataError, RunError
from recsys.cli.main import main
from recsys.configs.packaged import FOLDER
from recsys.data.build import load_dataset
from recsys.data.vocabulary import FIRST, UNKNOWN, Vocabulary
from recsys.funnel.folder import load_run
from recsys.funnel.run import TrainedRun
from recsys.nn.embedding import EmbeddingTable
from recsys.pipeline.publish import train_run
from recsys.pipeline.warm_start import (
    Copied,
    copy_dense,
    copy_plainly,
    copy_rows,
    copy_towers,
    tables_of,
    to_width,
    warm_start_ranker,
)
from recsys.ranking.ranker import Ranker, build_ranker
from recsys.retrieval.towers.train import build_two_tower
from recsys.retrieval.towers.windows import TowerData
from recsys.tests.support.tiny import TinyRun


def vocabularies(**values: str) -> dict[str, Vocabulary]:
    return {name: Vocabulary(tuple(text)) for name, text in values.items()}


def table(known: dict[str, Vocabulary], dim: int = 4, **others: int) -> EmbeddingTable:
    return EmbeddingTable({name: len(v) for name, v in known.items()} | others, dim, 1.0)


def ranker_of_width(stages: TrainedRun, width: int) -> Ranker:
    config = stages.config.ranking.model
    config = config.model_copy(update={"input": config.input.model_copy(update={"embedding_dim": width})})
    return build_ranker(config, stages.dataset.layout, stages.dataset.config.tasks, 0)


@pytest.fixture(scope="module")
def stages(tiny_run: TinyRun) -> TrainedRun:
    return load_run(open_run(tiny_run.folder), with_index=False)


def test_rows_follow_their_raw_values() -> None:
    here, there = vocabularies(item="cabx", tab="pq"), vocabularies(item="abcd", shop="z")
    target, source = table(here, gap=6), table(there, gap=6)
    fresh, given = target.weight.detach().clone(), source.weight.detach().clone()
    report = copy_rows(target, here, source, there)
    assert report == [
        Copied(vocabulary="item", kept=3, new=1, dropped=1),
        Copied(vocabulary="gap", kept=4, new=0, dropped=0),
    ]
    assert str(report[0]) == "item: 3 kept, 1 new, 1 dropped"
    mine, theirs = target.rows_of("item"), source.rows_of("item")
    for row, value in enumerate("cab"):
        assert torch.equal(mine[FIRST + row], theirs[FIRST + "abcd".index(value)])
    assert torch.equal(mine[UNKNOWN], theirs[UNKNOWN])
    assert torch.equal(mine[FIRST + 3], fresh[target.offsets["item"] + FIRST + 3])
    assert torch.equal(target.rows_of("tab")[FIRST:], fresh[target.offsets["tab"] + FIRST :][:2])
    assert torch.equal(target.rows_of("gap")[1:], source.rows_of("gap")[1:])
    assert torch.equal(source.weight, given)
    assert not mine[0].any()


def test_a_copy_is_no_bond() -> None:
    known = vocabularies(item="ab")
    target, source = table(known), table(known)
    copy_rows(target, known, source, known)
    with torch.no_grad():
        target.weight += 1.0
    assert not torch.equal(target.rows_of("item"), source.rows_of("item"))


def test_other_buckets_are_left_alone() -> None:
    known = vocabularies(item="ab")
    target = table(known, price=9)
    before = target.rows_of("price").detach().clone()
    report = copy_rows(target, known, table(known, price=8), known)
    assert [entry.vocabulary for entry in report] == ["item"]
    assert torch.equal(target.rows_of("price"), before)


def test_a_wider_table_holds_the_rows_and_zeros() -> None:
    rows = torch.randn(9, 4)
    wide, share = to_width(rows, 6)
    assert share == 1.0
    assert torch.equal(wide[:, :4], rows)
    assert not wide[:, 4:].any()
    assert torch.equal(to_width(rows, 4)[0], rows)


def test_a_narrower_table_holds_the_directions_that_vary_most() -> None:
    """No other linear map of this width tells the values' rows apart as well (Eckart and Young, 1936)."""
    generator = torch.Generator().manual_seed(2)
    rows = (
        torch.randn(60, 12, generator=generator)
        * torch.arange(1, 13) ** -1.0
        @ torch.randn(12, 12, generator=generator)
    )
    narrow, share = to_width(rows, 3)
    values = (rows[FIRST:] - rows[FIRST:].mean(0)).double()
    assert narrow[FIRST:].mean(0).abs().max() < 1e-5
    gram = values @ values.T

    def lost(reduced: torch.Tensor) -> float:
        return float((gram - reduced.double() @ reduced.double().T).norm())

    singular = torch.linalg.svdvals(values)
    assert lost(narrow[FIRST:]) == pytest.approx(float((singular[3:] ** 4).sum().sqrt()), rel=1e-4)
    assert share == pytest.approx(float((singular[:3] ** 2).sum() / (singular**2).sum()))
    for seed in range(20):
        basis, _ = torch.linalg.qr(
            torch.randn(12, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        )
        assert lost(values @ basis) > lost(narrow[FIRST:])


def test_a_direction_does_not_depend_on_the_sign_a_library_gives_it() -> None:
    rows = torch.randn(40, 6)
    top = to_width(rows, 2)[0]
    again = to_width(rows + 3.0, 2)[0]  # moved as a whole: the same differences
    assert torch.allclose(top[FIRST:], again[FIRST:], atol=1e-4)


def test_few_values_and_none_at_all_have_directions_too() -> None:
    for count in (0, 1, 2):
        narrow, share = to_width(torch.randn(FIRST + count, 8), 3)
        assert narrow.shape == (FIRST + count, 3)
        assert torch.isfinite(narrow).all()
        assert share == pytest.approx(1.0)


@pytest.mark.parametrize("width", [4, 8, 12])
def test_the_ranker_begins_with_the_retrievers_directions_at_its_own_spread(stages: TrainedRun, width: int) -> None:
    assert stages.retriever is not None
    ranker = ranker_of_width(stages, width)
    (mine,) = ranker.tables()
    names = ("user_id", "item_id", "category")
    spread = {name: mine.rows_of(name)[FIRST:].std().item() for name in names}
    theirs = stages.retriever.model.table
    given = theirs.weight.detach().clone()
    report = {entry.vocabulary: entry for entry in warm_start_ranker(ranker, stages.dataset, stages.retriever)}
    assert set(names) <= set(report)
    for name in names:
        copied, source = mine.rows_of(name).detach(), theirs.rows_of(name).detach()
        assert copied[FIRST:].std().item() == pytest.approx(spread[name], rel=1e-3)
        assert not copied[0].any()
        expected = to_width(source, width)[0][FIRST:]
        assert torch.nn.functional.cosine_similarity(copied[FIRST:].flatten(), expected.flatten(), dim=0) > 0.9999
        assert report[name].kept == len(stages.dataset.encoders.vocabularies[name].values)
        assert (report[name].variance < 1) == (width < theirs.dim and report[name].kept > width + 1), report[name]
    with torch.no_grad():
        mine.weight += 1.0
    assert torch.equal(theirs.weight, given)


def test_fields_of_the_ranker_alone_are_not_touched(stages: TrainedRun) -> None:
    assert stages.retriever is not None
    ranker = ranker_of_width(stages, 4)
    (mine,) = ranker.tables()
    alone = [name for name in mine.sizes if name not in stages.retriever.model.table.sizes]
    before = {name: mine.rows_of(name).detach().clone() for name in alone}
    warm_start_ranker(ranker, stages.dataset, stages.retriever)
    assert alone
    assert all(torch.equal(mine.rows_of(name), rows) for name, rows in before.items())


def test_a_training_does_it_and_says_so(tiny_run: TinyRun) -> None:
    report = open_run(tiny_run.folder).read_json(WARM_START)
    assert report["ranking"]["from"] == "the retriever"
    kept = {entry["vocabulary"]: entry for entry in report["ranking"]["vocabularies"]}
    known = load_run(open_run(tiny_run.folder), with_index=False).dataset.encoders.vocabularies
    assert kept["item_id"]["kept"] == len(known["item_id"].values)
    assert np.all([entry["dropped"] == entry["new"] == 0 for entry in kept.values()])


def test_tables_of_another_width_are_resized_only_when_asked() -> None:
    known = vocabularies(item="ab")
    target = table(known, price=9)
    before = target.weight.detach().clone()
    assert copy_rows(target, known, table(known, dim=5, price=9), known) == []
    assert torch.equal(target.weight, before)
    assert len(copy_rows(target, known, table(known, dim=5, price=9), known, resize=True)) == 2


def test_dense_layers_of_equal_name_and_shape_are_copied() -> None:
    one = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    other = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 5))
    before = one[1].weight.detach().clone()
    assert copy_dense(one, other) == 2
    assert torch.equal(one[0].weight, other[0].weight)
    assert torch.equal(one[1].weight, before)


def test_towers_move_to_other_data_by_raw_id(tiny_run: TinyRun, stages: TrainedRun, tmp_path: Path) -> None:
    """Other users and items first, so that every row has another number."""
    for name in ("users.csv", "items.csv"):
        shutil.copy(tiny_run.world / name, tmp_path / name)
    lines = (tiny_run.world / "events.csv").read_text().splitlines()
    (tmp_path / "events.csv").write_text("\n".join([lines[0], *lines[1500:]]) + "\n")
    config = tiny_run.config()
    dataset = load_dataset(config.data, tmp_path, 0)
    data = TowerData.of(dataset, config.retrieval.tower, config.retrieval.positive)
    towers = build_two_tower(data, config.retrieval.tower, 5)
    assert stages.retriever is not None
    old = stages.retriever.model
    report = copy_towers(towers, dataset, old, stages.dataset)
    mine, theirs = (one.encoders.vocabularies["item_id"].values for one in (dataset, stages.dataset))
    assert mine != theirs
    for table_here, table_there in ((towers.table, old.table), (towers.bias, old.bias)):
        assert table_here is not None
        assert table_there is not None
        for row, value in enumerate(mine):
            if value in theirs:
                there = table_there.rows_of("item_id")[FIRST + theirs.index(value)]
                assert torch.equal(table_here.rows_of("item_id")[FIRST + row], there)
    kept = next(entry for entry in report if entry.vocabulary == "item_id")
    assert kept.kept == len(set(mine) & set(theirs))
    assert torch.equal(towers.output.weight, old.output.weight)


SMALL = ("runtime.threads=1", "retrieval.fit.epochs=1", "ranking.fit.epochs=1", "ranking.batch_size=512")
STILL = 1e-30
"""A rate too small for float32: a table after the training is the table before the first step."""


@pytest.fixture(scope="module")
def chain(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainedRun]:
    """GemNN's three packaged stages, each trained by the command that its file begins with."""
    world = tmp_path_factory.mktemp("chain")
    for name in ("users.csv", "items.csv", "events.csv"):
        shutil.copy(tiny_run.world / name, world / name)
    rates = {"retrieval": [], "matching": [f"retrieval.optim.lr={STILL}"], "ranking": [f"ranking.optim.lr={STILL}"]}
    trained = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        for stage, rate in rates.items():
            file = FOLDER / f"gemnn-{stage}.toml"
            recsys, *words = file.read_text().splitlines()[0].removeprefix("# ").split()
            tables = [f'data.{name}="{world / name}.csv"' for name in ("events", "users", "items")]
            settings = [word for key in (*tables, *SMALL, *rate) for word in ("--set", key)]
            assert recsys == "recsys"
            assert main([*words, *settings]) == 0
            trained[stage] = load_run(open_run(Path(words[words.index("--run") + 1])), with_index=False)
    return trained


@pytest.mark.parametrize(("stage", "source"), [("matching", "retrieval"), ("ranking", "matching")])
def test_a_stage_of_the_chain_begins_with_the_rows_of_the_one_before_as_they_are(
    chain: dict[str, TrainedRun], stage: str, source: str
) -> None:
    (mine,), (theirs,) = tables_of(chain[stage]), tables_of(chain[source])
    own, old = (chain[name].dataset.encoders.vocabularies for name in (stage, source))
    shared = [name for name in mine.sizes if name in theirs.sizes and name in own]
    assert {"user_id", "item_id", "category"} <= set(shared)
    assert len(mine.sizes) > len(theirs.sizes)
    for name in shared:
        assert len(own[name].values) > 1
        for row, value in enumerate(own[name].values):
            there = theirs.rows_of(name)[FIRST + old[name].values.index(value)]
            assert torch.equal(mine.rows_of(name)[FIRST + row], there)
    report = chain[stage].warm_start["retrieval" if stage == "matching" else "ranking"]
    assert report["from"] == ("gemnn" if source == "retrieval" else "gemnn-matching")
    assert {entry["vocabulary"] for entry in report["vocabularies"]} >= set(shared)


def test_the_last_stage_joins_the_towers_of_the_first(chain: dict[str, TrainedRun]) -> None:
    first, last = chain["retrieval"].retriever, chain["ranking"].retriever
    assert first is not None
    assert last is not None
    assert torch.equal(first.model.table.weight, last.model.table.weight)
    assert chain["ranking"].ranker is not None
    assert chain["retrieval"].ranker is None


def test_within_a_run_rows_are_plain_where_the_configuration_says_so(stages: TrainedRun) -> None:
    assert stages.retriever is not None
    theirs = stages.retriever.model.table
    ranker = ranker_of_width(stages, theirs.dim)
    (mine,) = ranker.tables()
    warm_start_ranker(ranker, stages.dataset, stages.retriever, "plain")
    for name in ("user_id", "item_id", "category"):
        assert torch.equal(mine.rows_of(name), theirs.rows_of(name))


def test_plain_rows_need_one_width_and_a_run_to_take_them_from(
    tiny_run: TinyRun, stages: TrainedRun, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"retrieval\.tower\.dim = 8 is not ranking\.model\.input\.embedding_dim = 4"):
        tiny_run.config('ranking.warm_start_rows="plain"', "ranking.model.input.embedding_dim=4")
    assert tiny_run.config('ranking.warm_start_rows="plain"').ranking.warm_start_rows == "plain"
    with pytest.raises(ConfigError, match="name that run with --from"):
        train_run(tiny_run.config('start="rows"'), tmp_path / "run", base=tiny_run.world)
    (other,) = ranker_of_width(stages, 5).tables()
    with pytest.raises(RunError, match="8 wide in the source run and 5 here"):
        copy_plainly([other], stages.dataset, stages)
    with pytest.raises(RunError, match="none of the features here"):
        copy_plainly([EmbeddingTable({"elsewhere": 4}, 8, 1.0)], stages.dataset, stages)


def test_rows_of_a_run_that_knows_the_answers_are_refused(tiny_run: TinyRun, tmp_path: Path) -> None:
    """The source was trained up to 90 % less the test part; a split that cuts earlier is judged by what it learned."""
    config = tiny_run.config('start="rows"', "data.split.valid=0.2", "data.split.test=0.3")
    with pytest.raises(DataError, match="it knows answers"):
        train_run(config, tmp_path / "run", source_run=tiny_run.folder, base=tiny_run.world)
