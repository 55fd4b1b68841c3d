"""Training a whole run: killed anywhere it goes on bit for bit, stages compose, and a published run always loads."""

from __future__ import annotations

import multiprocessing
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import recsys
from recsys.artifacts.folder import open_run
from recsys.artifacts.locate import find_run
from recsys.artifacts.names import INDEX, INDEX_REPORT, RETRIEVAL_HISTORY
from recsys.base.errors import ConfigError, RecsysError, RunError
from recsys.base.files import locked
from recsys.cli.main import main
from recsys.configs.run import load_config
from recsys.data.build import load_dataset
from recsys.data.split import Part
from recsys.funnel.folder import OPTIMIZERS, RANKER, TOWERS, VECTORS, load_run
from recsys.pipeline.companions import fit_companions
from recsys.pipeline.evaluate import evaluate_run
from recsys.pipeline.index import build_run_index
from recsys.pipeline.publish import train_run
from recsys.pipeline.requests import select_requests
from recsys.retrieval.towers.train import build_two_tower, requests
from recsys.retrieval.towers.windows import TowerData
from recsys.tests.support.days import Days
from recsys.tests.support.tiny import TinyRun

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["recsys.pipeline.train", "recsys.ranking.models.mmoe", "faiss", "torch._dynamo"])


def weights(run: Path) -> dict[str, np.ndarray]:
    """Everything learned in a run: towers, ranker, item vectors."""
    opened = open_run(run)
    found = {"vectors": np.load(opened.file(VECTORS), allow_pickle=False)}
    for name in (TOWERS, RANKER):
        if name in opened:
            found |= {f"{name}:{key}": values for key, values in load_file(opened.file(name)).items()}
    return found


def assert_equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert np.array_equal(values, other[name]), name


def in_child(work: Callable[..., Any], *args: Any, **keys: Any) -> BaseProcess:
    child = FORK.Process(target=work, args=args, kwargs=keys)
    child.start()
    return child


def kill_at_checkpoint(child: BaseProcess, folder: Path) -> None:
    """SIGKILL as soon as the folder holds a checkpoint; a training that ends before is a failure."""
    while not any(folder.glob("checkpoint-*")):
        child.join(0.002)
        assert child.is_alive(), "the training ended before it could be killed"
    child.kill()
    child.join()
    assert child.exitcode == -9


def test_a_training_killed_in_both_stages_goes_on_bit_for_bit(tiny_run: TinyRun, tmp_path: Path) -> None:
    config = tiny_run.config("retrieval.fit.epochs=6", "ranking.fit.epochs=4")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train_run(config, whole, base=tiny_run.world)
    for stage in ("retrieval", "ranking"):
        child = in_child(train_run, config, killed, base=tiny_run.world, resume=stage == "ranking")
        kill_at_checkpoint(child, tmp_path / ".killed.checkpoints" / stage)
        assert not killed.exists()
    train_run(config, killed, base=tiny_run.world, resume=True)
    assert_equal(weights(killed), weights(whole))
    assert not (tmp_path / ".killed.checkpoints").exists()


def test_a_training_from_a_run_killed_in_both_stages_goes_on_bit_for_bit(days: Days, tmp_path: Path) -> None:
    """Moments included; and only with the source it began with."""
    config = days.tiny.config("retrieval.fit.epochs=6", "ranking.fit.epochs=4")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train_run(config, whole, base=days.second, source_run=days.run)
    for stage in ("retrieval", "ranking"):
        resume = stage == "ranking"
        child = in_child(train_run, config, killed, base=days.second, source_run=days.run, resume=resume)
        kill_at_checkpoint(child, tmp_path / ".killed.checkpoints" / stage)
    twin = train_run(days.tiny.config("retrieval.fit.epochs=1", "seed=9"), tmp_path / "twin", base=days.first)
    for other in (None, whole, twin):
        with pytest.raises(RecsysError, match="another configuration or other data"):
            train_run(config, killed, base=days.second, source_run=other, resume=True)
    train_run(config, killed, base=days.second, source_run=days.run, resume=True)
    assert_equal(weights(killed), weights(whole))
    for name in (OPTIMIZERS["retrieval"], OPTIMIZERS["ranking"]):
        assert_equal(load_file(open_run(killed).file(name)), load_file(open_run(whole).file(name)))


def test_a_training_goes_on_only_with_the_configuration_it_began_with(tiny_run: TinyRun, tmp_path: Path) -> None:
    run = tmp_path / "run"
    child = in_child(train_run, tiny_run.config("retrieval.fit.epochs=6"), run, base=tiny_run.world)
    kill_at_checkpoint(child, tmp_path / ".run.checkpoints" / "retrieval")
    with pytest.raises(RunError, match="another configuration or other data; start without --resume"):
        train_run(tiny_run.config("retrieval.fit.epochs=7"), run, base=tiny_run.world, resume=True)
    assert not run.exists()
    # what the training does not depend on may change
    train_run(tiny_run.config("retrieval.fit.epochs=6", "evaluation.draws=7"), run, base=tiny_run.world, resume=True)
    assert load_run(open_run(run)).config.evaluation.draws == 7


@pytest.mark.slow
def test_killed_twenty_times_at_random_moments_the_last_run_still_loads(tiny_run: TinyRun, tmp_path: Path) -> None:
    """Trainings and index builds over a run that serves; after every death it answers as before, or as the new run."""
    run = tmp_path / "runs" / "shop"
    shutil.copytree(tiny_run.folder, run)
    config = tiny_run.config("seed=5", "ranking.fit.epochs=1")
    users = ["1", "7", "nobody"]

    def answers() -> list[list[str]]:
        return [
            [item["item"] for item in one["items"]] for one in recsys.load(run).funnel.recommend(users, 5).to_json()
        ]

    before = answers()
    whole = tmp_path / "whole"
    started = time.perf_counter()
    in_child(train_run, config, whole, base=tiny_run.world).join()
    training = time.perf_counter() - started
    allowed = [
        before,
        [[i["item"] for i in one["items"]] for one in recsys.load(whole).funnel.recommend(users, 5).to_json()],
    ]
    rng = np.random.default_rng(0)
    killed = 0
    for trial in range(60):
        if trial >= 20 and killed >= 8:  # on a busy machine more of them end before they are killed
            break
        if trial % 5 < 3:
            child = in_child(train_run, config, run, base=tiny_run.world)
        else:
            child = in_child(build_run_index, run, ("Flat", "HNSW8,Flat")[trial % 2])
        child.join(float(rng.uniform(0.0, training if trial % 5 < 3 else training / 3)))
        killed += child.is_alive()
        child.kill()
        child.join()
        assert [path.name for path in run.parent.iterdir() if not path.name.startswith(".")] == ["shop"]
        assert find_run(None, run.parent) == run
        assert answers() in allowed
    assert killed >= 8
    train_run(config, run, base=tiny_run.world)
    build_run_index(run)
    assert answers() == allowed[1]


def test_the_same_configuration_gives_the_same_run(tiny_run: TinyRun, tmp_path: Path) -> None:
    again = train_run(tiny_run.config(), tmp_path / "again", base=tiny_run.world)
    assert_equal(weights(again), weights(tiny_run.folder))
    other = train_run(tiny_run.config("seed=9"), tmp_path / "other", base=tiny_run.world, stage="retrieval")
    assert not np.array_equal(weights(other)["vectors"], weights(again)["vectors"])


def test_stage_by_stage_is_the_same_as_both_at_once(tiny_run: TinyRun, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_run(tiny_run.config(), run, base=tiny_run.world, stage="retrieval")
    assert RANKER not in open_run(run)
    first = weights(run)
    learned = open_run(run).file(RETRIEVAL_HISTORY).read_text()
    assert len(learned.splitlines()) == 3
    build_run_index(run)
    built = open_run(run).read_json(INDEX_REPORT)
    train_run(tiny_run.config(), run, base=tiny_run.world, stage="ranking")
    assert open_run(run).read_json(INDEX_REPORT) == built
    assert open_run(run).file(RETRIEVAL_HISTORY).read_text() == learned
    retriever = load_run(open_run(run)).retriever
    assert retriever is not None
    assert retriever.index is not None
    after = weights(run)
    assert all(np.array_equal(after[name], values) for name, values in first.items())
    assert_equal(after, weights(tiny_run.folder))


@pytest.mark.parametrize(
    ("override", "section"), [("retrieval.tower.dim=16", "retrieval"), ("data.split.test=0.2", "data")]
)
def test_the_ranking_stage_refuses_a_retriever_of_another_configuration(
    tiny_run: TinyRun, tmp_path: Path, override: str, section: str
) -> None:
    """Towers of another width would not load again; towers of another split have seen the test rows."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run.folder, run)
    with pytest.raises(RunError, match=rf"trained with another \[{section}\] section; train both stages again"):
        train_run(tiny_run.config(override), run, base=tiny_run.world, stage="ranking")
    assert_equal(weights(run), weights(tiny_run.folder))


def test_the_ranking_stage_does_not_pass_over_a_damaged_run(tiny_run: TinyRun, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run.folder, run)
    open_run(run).file(TOWERS).unlink()
    with pytest.raises(RunError, match=r"model\.safetensors is missing"):
        train_run(tiny_run.config(), run, base=tiny_run.world, stage="ranking")


def test_a_run_trains_again_from_its_own_configuration(tiny_run: TinyRun, tmp_path: Path) -> None:
    file = open_run(tiny_run.folder).file("config.toml")
    config = load_config(file)
    again = train_run(config, tmp_path / "again", base=file.parent)
    assert_equal(weights(again), weights(tiny_run.folder))


def test_two_trainings_of_one_run_do_not_meet(tiny_run: TinyRun, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "t"
    checkpoints = run.with_name(".t.checkpoints")
    checkpoints.mkdir(parents=True)
    with (
        locked(checkpoints),
        pytest.raises(RunError, match=rf"another process is writing {run}; let it end, or write"),
    ):
        train_run(tiny_run.config(), run, base=tiny_run.world)
    assert not run.exists()


def test_a_run_does_not_replace_the_folder_one_stands_in(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (Path(), Path("..") / tmp_path.name):
        with pytest.raises(
            RunError, match="is the folder you stand in, which a run cannot replace; name another --run"
        ):
            train_run(tiny_run.config(), path, base=tiny_run.world)
    assert not list(tmp_path.iterdir())


LAST_EPOCH = ("data.split.valid=0", "data.split.valid_from=", "data.split.test_from=", "retrieval.fit.metric=")


def test_without_a_validation_part_the_last_epoch_is_kept_and_the_ranker_has_no_requests(
    tiny_run: TinyRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match=r'data.split.valid = 0 leaves no rows .* set ranking.fit.metric = ""'):
        tiny_run.config(*LAST_EPOCH)
    config = tiny_run.config(*LAST_EPOCH, "ranking.fit.metric=", "retrieval.fit.epochs=1", "ranking.fit.epochs=1")
    folder = train_run(config, tmp_path / "run", base=tiny_run.world)
    assert 'the ranker is trained without "select"' in caplog.text
    trained = load_run(open_run(folder))
    parts = trained.dataset.events.parts
    assert set(np.unique(parts)) == {Part.TRAIN, Part.TEST}
    assert not trained.config.ranking.select.enabled
    result = evaluate_run(folder)
    assert result["ranking"]
    assert result["retrieval"]["two_tower"]["users"] > 0


@pytest.mark.parametrize("kind", ["time", "leave_last"])
def test_changes_in_the_test_part_reach_no_training_request(tiny_run: TinyRun, tmp_path: Path, kind: str) -> None:
    config = tiny_run.config(f"data.split.kind={kind}")
    for name in ("users.csv", "items.csv", "events.csv"):
        shutil.copy(tiny_run.world / name, tmp_path / name)
    before = load_dataset(config.data, tiny_run.world, 0)
    lines = (tmp_path / "events.csv").read_text().splitlines()
    header = lines[0].replace('"', "").split(",")
    click, item = header.index("click"), header.index("item_id")
    for row in before.events.source_rows[before.events.parts == Part.TEST]:
        cells = lines[row + 1].split(",")
        cells[click], cells[item] = "1", str(1 + (int(cells[item]) * 7) % 80)
        lines[row + 1] = ",".join(cells)
    (tmp_path / "events.csv").write_text("\n".join(lines) + "\n")
    after = load_dataset(config.data, tmp_path, 0)
    assert not np.array_equal(before.events.items, after.events.items)
    stages = load_run(open_run(tiny_run.folder), with_index=False)
    assert stages.retriever is not None
    made = []
    for dataset in (before, after):
        data = TowerData.of(dataset, config.retrieval.tower, config.retrieval.positive)
        model = build_two_tower(data, config.retrieval.tower, 0)
        retriever = type(stages.retriever)(model, data, {})
        made.append(select_requests(dataset, retriever, config))
    for name in ("users", "rows", "features", "prior", "taken", "wanted"):
        assert np.array_equal(getattr(made[0], name), getattr(made[1], name)), name


def test_companions_learn_from_training_events_alone(tiny_run: TinyRun) -> None:
    config = tiny_run.config('retrieval.baselines=["popularity", "same_category", "item_knn"]')
    dataset = load_dataset(config.data, tiny_run.world, 0)
    later = dataset.events.parts >= Part.VALID
    moved = np.where(later, (dataset.events.items * 7 + 1) % dataset.num_catalogue, dataset.events.items)
    other = replace(dataset, events=replace(dataset.events, items=moved))
    fitted = [
        fit_companions(config, one, TowerData.of(one, config.retrieval.tower, config.retrieval.positive))
        for one in (dataset, other)
    ]
    assert not np.array_equal(dataset.events.items, moved)
    assert {"popularity", "same_category", "item_knn", "ease"} <= fitted[0].keys() == fitted[1].keys()
    for name, baseline in fitted[0].items():
        assert_equal(baseline.state(), fitted[1][name].state())


def test_a_training_request_is_an_item_taken_among_candidates_not_taken(tiny_run: TinyRun) -> None:
    stages = load_run(open_run(tiny_run.folder), with_index=False)
    assert stages.retriever is not None
    asked = select_requests(stages.dataset, stages.retriever, stages.config)
    events = stages.dataset.events
    found = 0
    for user, rows, answer in zip(asked.users, asked.rows, asked.taken, strict=True):
        own = events.users == user
        taken = set(events.items[own & (events.parts == Part.VALID) & (events.labels[:, 0] > 0)].tolist())
        before = set(events.items[own & (events.parts < Part.VALID) & (events.labels[:, 0] > 0)].tolist())
        named = set(rows[rows >= 0].tolist())
        assert named.isdisjoint(before)
        assert answer.sum() <= 1
        assert named & taken == set(rows[answer].tolist())
        found += int(answer.any())
    assert found > 10


def test_a_request_may_ask_for_all_that_its_user_took(tiny_run: TinyRun) -> None:
    stages = load_run(open_run(tiny_run.folder), with_index=False)
    assert stages.retriever is not None
    each = select_requests(stages.dataset, stages.retriever, stages.config)
    asks = stages.config.ranking.select.model_copy(update={"targets": "all"})
    ranking = stages.config.ranking.model_copy(update={"select": asks})
    config = stages.config.model_copy(update={"ranking": ranking})
    whole = select_requests(stages.dataset, stages.retriever, config)
    assert len(np.unique(whole.users)) == len(whole)
    assert set(whole.users.tolist()) == set(each.users.tolist())
    users, _, truth = requests(stages.retriever.data, Part.VALID)
    assert whole.wanted.tolist() == truth.lengths[np.searchsorted(users, whole.users)].tolist()
    several = 0
    for user, rows, answer in zip(whole.users, whole.rows, whole.taken, strict=True):
        own = each.users == user
        assert set(rows[answer].tolist()) == set(each.rows[own][each.taken[own]].tolist())
        several += answer.sum() > 1
    assert several > 3


def test_an_index_needs_a_retriever_and_is_checked(tiny_run: TinyRun, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_run(tiny_run.config(), run, base=tiny_run.world, stage="retrieval")
    assert not open_run(run).has_directory(INDEX)
    report = build_run_index(run, factory="Flat")
    assert open_run(run).has_directory(INDEX)
    assert report.to_json()["factory"] == "Flat"


def test_the_command_says_where_the_run_is(
    tiny_run: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = ["retrieval.fit.epochs=1", "retrieval.num_candidates=20", "runtime.threads=1", "retrieval.tower.dim=8"]
    sets = [part for setting in settings for part in ("--set", setting)]
    assert main(["train", str(tiny_run.config_file), "--stage", "retrieval", *sets]) == 0
    assert capsys.readouterr().out == "runs/demo\n"
    assert find_run(None).resolve() == (tmp_path / "runs" / "demo").resolve()


def test_no_stage_of_a_run_that_cannot_have_it(tiny_run: TinyRun, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("age,rich\n" + "".join(f"{20 + i % 50},{i % 2}\n" for i in range(200)))
    (tmp_path / "rows.toml").write_text(
        '[data]\nevents = "rows.csv"\nuser = ""\nitem = ""\ntime = ""\nsplit = { kind = "random" }\n'
        '[[data.features]]\nname = "age"\nside = "context"\nkind = "numeric"\n[[data.tasks]]\nname = "rich"\n'
    )
    config = load_config(tmp_path / "rows.toml", ["runtime.threads=1", "ranking.fit.epochs=1"])
    with pytest.raises(RecsysError, match=r"--stage retrieval needs data\.user and data\.item"):
        train_run(config, tmp_path / "run", base=tmp_path, stage="retrieval")
    run = train_run(config, tmp_path / "run", base=tmp_path)
    with pytest.raises(RunError, match="has no retriever, so there is nothing to index"):
        build_run_index(run)
    with pytest.raises(RunError, match="has no retriever, so it cannot recommend"):
        _ = recsys.load(run).funnel
    assert recsys.load(run).evaluate()["ranking"]["rich"]["rows"] > 0  # slices by user and by item have nothing to say
