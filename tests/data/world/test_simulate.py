"""The embedded world: its log follows its truth, its propensities are right, and it can be learned."""

from __future__ import annotations

import filecmp
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import rankdata

from recsys.base.errors import DataError
from recsys.data.reading.readers import read_tables
from recsys.data.world import simulate as simulate_module
from recsys.data.world.simulate import SimulateConfig, World, build_world, is_world, load_truth, simulate

SMALL = SimulateConfig(users=60, items=80, sessions=300, slate=5, days=6)


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(SimulateConfig())


def column(world: World, name: str) -> np.ndarray:
    return world.events[name].to_numpy()


def auc(label: np.ndarray, score: np.ndarray) -> float:
    ranks, positives = rankdata(score), label.sum()
    return float((ranks[label == 1].sum() - positives * (positives + 1) / 2) / positives / (len(label) - positives))


def test_clicks_follow_their_probability_in_every_band(world: World) -> None:
    click, p = column(world, "click"), world.truth.event_p_click
    assert click.mean() == pytest.approx(world.config.click_rate, abs=0.005)
    for band in np.array_split(np.argsort(p), 10):
        sd = np.sqrt((p[band] * (1 - p[band])).sum()) / len(band)
        assert abs(click[band].mean() - p[band].mean()) < 4 * sd


def test_conversions_come_after_clicks_with_their_probability(world: World) -> None:
    click, conversion = column(world, "click"), column(world, "conversion")
    assert conversion[click == 0].sum() == 0
    p = world.truth.event_p_conversion[click == 1]
    assert conversion[click == 1].mean() == pytest.approx(world.config.conversion_rate, abs=0.01)
    for band in np.array_split(np.argsort(p), 5):
        sd = np.sqrt((p[band] * (1 - p[band])).sum()) / len(band)
        assert abs(conversion[click == 1][band].mean() - p[band].mean()) < 4 * sd
    dwell = column(world, "dwell_seconds")
    assert (dwell[click == 1] >= 1).all()
    assert (dwell[click == 0] == 0).all()


def test_what_converts_is_not_simply_what_is_clicked(world: World) -> None:
    odds = [np.log(p / (1 - p)).ravel() for p in (world.truth.p_click, world.truth.p_conversion)]
    assert 0.2 < np.corrcoef(*odds)[0, 1] < 0.8
    click = column(world, "click") == 1
    conversion = column(world, "conversion")[click]
    assert auc(conversion, world.truth.event_p_conversion[click]) > 0.78
    assert auc(conversion, world.truth.event_p_click[click]) < 0.72


def test_lower_positions_are_looked_at_less(world: World) -> None:
    examination = world.truth.examination
    assert examination[0] == 1
    assert (np.diff(examination) < 0).all()
    click, position = column(world, "click"), column(world, "position")
    rates = np.array([click[position == slot].mean() for slot in (1, 5, 10)])
    assert (np.diff(rates) < -0.02).all()


def test_inverse_propensities_recover_the_number_of_choices(world: World) -> None:
    """In slot k of a slate, every available item not above it could stand: 1/p sums to their number on average."""
    events, published = world.events, world.items["published"].to_numpy()
    weight = 1 / column(world, "propensity")
    position = column(world, "position")
    start = column(world, "timestamp")[position == 1]
    available = np.searchsorted(np.sort(published), start, side="right")
    for slot in (1, 2, 5, 10):
        w = weight[position == slot]
        assert abs(w.mean() - (available - slot + 1).mean()) < 4 * w.std() / np.sqrt(len(w)), slot
    assert weight.max() <= world.config.items / world.config.explore
    assert events["propensity"].null_count == 0


def test_inverse_propensities_estimate_another_policy(world: World) -> None:
    """Value of showing one of the 30 most appealing items in slot 1, by IPS on the log and by the truth."""
    first = column(world, "position") == 1
    item, user = column(world, "item_id")[first] - 1, column(world, "user_id")[first] - 1
    oldest = np.argsort(world.items["published"].to_numpy())[:600]  # there from the first day
    target = oldest[np.argsort(-world.truth.p_click[:, oldest].mean(axis=0))[:30]]
    chosen = np.isin(item, target)
    weight = chosen / (30 * column(world, "propensity")[first])
    p = world.truth.event_p_click[first]
    estimate = weight * p
    naive = p[chosen].mean()
    truth = world.truth.p_click[user][:, target].mean()  # tastes drift, so only nearly the value during the log
    assert abs(weight.mean() - 1) < 4 * weight.std() / np.sqrt(len(weight))
    assert abs(estimate.mean() - truth) < 0.02
    assert naive - truth > 0.04, "the policy shows items to those who like them: the naive mean is biased"


def test_slates_hold_no_item_twice_none_unborn_and_time_runs_forward(world: World) -> None:
    item = column(world, "item_id")
    session = column(world, "session_id")
    time = column(world, "timestamp")
    assert (np.diff(time) >= 0).all()
    assert len(np.unique(session * 10_000 + item)) == len(item)
    assert (world.items["published"].to_numpy()[item - 1] <= time).all()
    user = column(world, "user_id")
    assert len(np.unique(user * 10**11 + time)) == len(user), "a user is at one place at a time"
    assert set(user) == set(world.users["user_id"].to_pylist()), "everybody comes at least once"


def test_the_truth_orders_models_and_leaves_room_between_them(world: World) -> None:
    click, item, user = (column(world, name) for name in ("click", "item_id", "user_id"))
    time = column(world, "timestamp")
    train, test = time < np.quantile(time, 0.8), time >= np.quantile(time, 0.8)
    rate = (np.bincount(item[train], click[train], 1_001) + 4) / (np.bincount(item[train], minlength=1_001) + 20)
    popularity = auc(click[test], rate[item[test]])
    oracle = auc(click[test], world.truth.event_p_click[test])
    assert 0.62 <= popularity <= 0.69
    assert 0.80 <= oracle <= 0.86
    # A simple taste model, category rates per user, lies between the two: there is something to learn.
    category = world.items["category"].to_numpy(zero_copy_only=False)
    kind = np.unique(category, return_inverse=True)[1]
    cell = user * 12 + kind[item - 1]
    seen = np.bincount(cell[train], minlength=12 * 2_001)
    base = (np.bincount(kind[item[train] - 1], click[train]) / np.bincount(kind[item[train] - 1]))[np.arange(12)]
    taste = (np.bincount(cell[train], click[train], 12 * 2_001) + 10 * np.tile(base, 2_001)) / (seen + 10)
    lift = taste.reshape(2_001, 12) / base
    simple = auc(click[test], lift[user[test], kind[item[test] - 1]] * rate[item[test]])
    assert popularity + 0.015 < simple < oracle - 0.05

    def value(score: np.ndarray) -> float:
        top = np.argsort(-score, axis=1)[:, :10]
        return float(np.take_along_axis(world.truth.p_click, top, axis=1).mean())

    popular = value(np.tile(rate[1:], (2_000, 1)))
    personal = value(lift[1:][:, kind] * rate[1:])
    best = value(world.truth.p_click)
    assert popular + 0.08 < personal < best - 0.2
    assert best > 0.7


def test_tastes_drift() -> None:
    """With drift, the truth at the end explains early clicks less well than late ones."""
    drifting, still = (
        build_world(SimulateConfig(users=1_000, items=500, sessions=8_000, drift=drift, seed=3)) for drift in (1.0, 0.0)
    )

    def early_minus_late(world: World) -> float:
        click, time = column(world, "click"), column(world, "timestamp")
        score = world.truth.p_click[column(world, "user_id") - 1, column(world, "item_id") - 1]
        early, late = time < np.quantile(time, 0.3), time > np.quantile(time, 0.7)
        return auc(click[early], score[early]) - auc(click[late], score[late])

    assert early_minus_late(drifting) < early_minus_late(still) - 0.05


def test_one_seed_one_world(tmp_path: Path) -> None:
    for name in ("one", "two"):
        simulate(SMALL, tmp_path / name)
    simulate(SMALL.model_copy(update={"seed": 1}), tmp_path / "other")
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 4 + 7
    same, different, odd = filecmp.cmpfiles(tmp_path / "one", tmp_path / "two", map(str, files), shallow=False)
    assert (len(same), different, odd) == (len(files), [], [])
    assert not filecmp.cmp(tmp_path / "one" / "events.csv", tmp_path / "other" / "events.csv", shallow=False)


def test_the_files_say_what_the_world_is(tmp_path: Path) -> None:
    world = simulate(SMALL, tmp_path / "w")
    tables = read_tables(*(tmp_path / "w" / f"{name}.csv" for name in ("events", "users", "items")))
    assert tables.events.column_names == world.events.column_names
    assert tables.events["click"].to_pylist() == [str(click) for click in world.events["click"].to_pylist()]
    assert tables.users["age"].null_count == world.users["age"].null_count > 0
    titles = tables.items["title"].to_pylist()
    assert len(set(titles)) == len(titles)
    truth = load_truth(tmp_path / "w")
    assert truth.p_click.shape == truth.p_conversion.shape == (60, 80)
    for name, array in vars(world.truth).items():
        np.testing.assert_array_equal(getattr(truth, name), array)
        assert array.dtype in (np.float32, np.int64)


def test_a_world_is_recognised(tmp_path: Path) -> None:
    assert not is_world(tmp_path / "w", SMALL)
    simulate(SMALL, tmp_path / "w")
    assert is_world(tmp_path / "w", SMALL)
    assert not is_world(tmp_path / "w", SMALL.model_copy(update={"drift": 0.1}))


def test_a_folder_of_something_else_is_never_overwritten(tmp_path: Path) -> None:
    simulate(SMALL, tmp_path / "w")
    (tmp_path / "w" / "notes.txt").write_text("kept")
    simulate(SMALL.model_copy(update={"seed": 1}), tmp_path / "w")  # a world may be replaced
    assert (tmp_path / "w" / "notes.txt").read_text() == "kept"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="exists and is no embedded world; name an empty or a new folder"):
        simulate(SMALL, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "w"]


def test_a_world_interrupted_while_it_is_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulate(SMALL, tmp_path / "w")

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            simulate(SMALL, tmp_path / "w")
    assert not is_world(tmp_path / "w", SMALL)
    with pytest.raises(DataError, match="found format None, expected 1; simulate it again"):
        load_truth(tmp_path / "w")
    simulate(SMALL, tmp_path / "w")
    assert is_world(tmp_path / "w", SMALL)


def test_an_incomplete_truth_is_refused(tmp_path: Path) -> None:
    simulate(SMALL, tmp_path / "w")
    whole = (tmp_path / "w/truth/p_click.npy").read_bytes()
    (tmp_path / "w/truth/p_click.npy").write_bytes(whole[:-100])
    with pytest.raises(DataError, match=r"holds no complete embedded world .*; simulate it again"):
        load_truth(tmp_path / "w")
    with pytest.raises(DataError, match="holds no complete embedded world"):
        load_truth(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sessions": 10}, "sessions=10 is below users=60; give each user one session"),
        ({"slate": 30}, "slate=30 needs at least 120 items, found items=80"),
        ({"sessions": 10_000}, "sessions=10000 exceeds 1440, four a day for each user"),
        ({"sesions": 10}, "Extra inputs are not permitted"),
    ],
)
def test_impossible_worlds_are_refused(change: dict[str, int], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        SimulateConfig(**{**SMALL.model_dump(), **change})


def test_a_world_whose_truth_memory_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate_module, "available_memory", lambda: 8 * 20 * 60 - 1)
    with pytest.raises(DataError, match="the truth of 20 users and 60 items takes"):
        build_world(SimulateConfig(users=20, items=60, sessions=40, slate=5))


def test_the_truth_does_not_depend_on_how_many_users_are_worked_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SimulateConfig(users=20, items=60, sessions=40, slate=5)
    whole = build_world(config).truth
    monkeypatch.setattr(simulate_module, "BLOCK", 7 * 60)
    parts = build_world(config).truth
    np.testing.assert_allclose(parts.p_click, whole.p_click, rtol=1e-5)
    np.testing.assert_allclose(parts.p_conversion, whole.p_conversion, rtol=1e-5)
