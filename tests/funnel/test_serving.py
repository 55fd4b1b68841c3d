"""Whom nobody knows, what may not be shown, what was never sold: every answer keeps its promises on every rung."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file

from recsys.artifacts.folder import open_run
from recsys.base.errors import ConfigError
from recsys.base.files import sync
from recsys.cli.main import main
from recsys.funnel.folder import CONTENT, load_run, mapped_arrays, save_run
from recsys.funnel.funnel import Funnel
from recsys.funnel.ladder import POPULAR, Rung
from recsys.funnel.run import assemble_retriever
from recsys.pipeline.index import build_run_index
from recsys.pipeline.publish import train_run
from recsys.retrieval.index.bitmap import Bitmap
from recsys.retrieval.retriever import Retriever
from recsys.retrieval.towers.ensemble import build_tower_members
from recsys.retrieval.towers.train import item_contents
from recsys.retrieval.towers.windows import TowerData
from recsys.serving.metrics import private_bytes
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.tiny import TinyRun

PROFILED, BLANK, LOOKER, NOBODY = "profiled", "blank", "looker", "nobody"
NEW = ("new1", "new2", "new3")


@dataclass(frozen=True)
class Served:
    """A run of a world with newcomers, and its tables."""

    folder: Path
    users: pd.DataFrame
    items: pd.DataFrame
    clicks: pd.DataFrame
    rungs: dict[str, str]

    def had(self, user: str) -> set[str]:
        """What a user clicked, ever."""
        return set(self.clicks.loc[self.clicks["user_id"] == user, "item_id"])


@pytest.fixture(scope="module", params=["tower reads users", "tower reads histories only"])
def served(request: pytest.FixtureRequest, tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """The tiny world with three items nobody met, a user with traits only, one without even those, and one who was
    shown items, took none, and has no traits.
    """
    world = tmp_path_factory.mktemp("newcomers")
    for name in ("events.csv", "users.csv", "items.csv", "demo.toml"):
        shutil.copy(tiny_run.world / name, world / name)
    users = pd.read_csv(world / "users.csv", dtype=str, keep_default_na=False)
    users.loc[len(users)] = [PROFILED, "33", "f", "north", "phone"]
    for blank in (BLANK, LOOKER):
        users.loc[len(users)] = [blank, "", "", "", ""]
    users.to_csv(world / "users.csv", index=False)
    events = pd.read_csv(world / "events.csv", dtype=str)
    looks = events.head(3).assign(user_id=LOOKER, click="0", conversion="0")
    events = pd.concat([looks, events])
    events.to_csv(world / "events.csv", index=False)
    items = pd.read_csv(world / "items.csv", dtype=str, keep_default_na=False)
    # Like no other item: which of two with the same vector is the last candidate would be for rounding to decide.
    taken = set(items.loc[items["brand"] == "Norda", "subcategory"])
    kinds = items[~items["subcategory"].isin(taken)].drop_duplicates("subcategory")[["category", "subcategory"]]
    for new, kind in zip(NEW, kinds.to_numpy(), strict=False):
        items.loc[len(items)] = [new, f"The {new}", *kind, "Norda", "0.1", "1705456600"]
    items["stock"] = [str(i % 7) if i % 5 else "" for i in range(len(items))]
    items.to_csv(world / "items.csv", index=False)
    text = (world / "demo.toml").read_text()
    (world / "demo.toml").write_text(text.replace('title = "title"', 'title = "title"\nattributes = ["stock"]', 1))
    alone = request.param == "tower reads histories only"
    run = replace(tiny_run, world=world, config_file=world / "demo.toml", folder=world / "run")
    threads = torch.get_num_threads()
    some = ["retrieval.fit.epochs=1", "ranking.fit.epochs=1"]
    train_run(run.config(*some, *(["retrieval.tower.user_features=[]"] if alone else [])), run.folder, base=world)
    build_run_index(run.folder)
    torch.set_num_threads(threads)
    clicks = events[events["click"] == "1"]
    rungs = {"1": "history", PROFILED: "segment" if alone else "features"}
    rungs |= dict.fromkeys((BLANK, LOOKER, NOBODY), "popular")
    return Served(run.folder, users, items, clicks, rungs)


@pytest.fixture(scope="module")
def funnels(served: Served) -> dict[str, Funnel]:
    """The run as it serves, without its index, and with other ways of naming candidates."""
    stages = load_run(open_run(served.folder))
    first = stages.retriever
    assert first is not None
    assert first.index is not None
    found = {"index": Funnel(stages)}
    for proposers in (("two_tower",), ("item_knn",), ("item_knn", "two_tower", "recent_popularity")):
        other = Retriever(first.model, first.data, first.companions, proposers, first.scorers)
        found["+".join(proposers)] = Funnel(replace(stages, retriever=other))
    return found


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item"] for item in answer["items"]]


def test_what_a_run_holds_is_mapped_and_not_read_into_every_process(tmp_path: Path) -> None:
    file, large = tmp_path / "a.safetensors", np.arange(6_000_000, dtype=np.float64)
    save_file({"large": large}, file)
    sync(file)  # pages that are still to be written count as private
    before = private_bytes()
    found = mapped_arrays(file)["large"]
    assert np.array_equal(found, large)
    assert private_bytes() - before < large.nbytes / 4
    found[0] = 7.0
    assert mapped_arrays(file)["large"][0] == 0.0


def test_content_that_is_no_part_of_the_vectors_is_kept_beside_them(tiny_run: TinyRun, tmp_path: Path) -> None:
    config = tiny_run.config('retrieval.tower.similarity="cosine"')
    trained = load_run(open_run(tiny_run.folder))
    assert trained.retriever is not None
    tower, companions = config.retrieval.tower, trained.retriever.companions
    data = TowerData.of(trained.dataset, tower, "click")
    model = build_tower_members(data, tower, 5, 1)
    retriever = assemble_retriever(config, model, data, companions)
    save_run(replace(trained, config=config, retriever=retriever), tmp_path / "run")
    run = open_run(tmp_path / "run")
    found = load_run(run).retriever
    assert found is not None
    assert np.array_equal(np.load(run.file(CONTENT), allow_pickle=False), found.content)
    assert torch.equal(found.content, item_contents(found.model, found.data, found.item_vectors))
    assert not torch.equal(found.content, torch.from_numpy(found.item_vectors))


def test_every_answer_says_what_it_rests_on(served: Served, funnels: dict[str, Funnel]) -> None:
    users = list(served.rungs)
    for answer in nonempty(funnels["index"].recommend(users, k=10, explain=True).to_json()):
        assert answer["rung"] == served.rungs[answer["user"]]
        assert answer["known"] == (answer["user"] != NOBODY)
        assert len(answer["items"]) == 10
        sources = {source for item in answer["items"] for source in item["sources"]}
        expected = {"segment": {"segment_popularity"}, "popular": {POPULAR}}
        assert sources == expected.get(answer["rung"], {"two_tower"})
        assert all(item["why"]["rung"] == answer["rung"] for item in answer["items"])
        assert all(bool(item["why"]["because_of"]) == (answer["rung"] == "history") for item in answer["items"])
        json.dumps(answer)


def test_a_tower_that_names_nobody_answers_nobody_by_features(served: Served, funnels: dict[str, Funnel]) -> None:
    (answer,) = funnels["item_knn"].recommend([PROFILED]).to_json()
    assert answer["rung"] == "segment"


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.5, 1.0])
def test_k_items_come_back_while_k_may(served: Served, funnels: dict[str, Funnel], share: float) -> None:
    """Against brute force: allowed, new to the user, each once, and as many as there are."""
    rng = np.random.default_rng(int(100 * share))
    catalogue = funnels["index"].dataset.item_ids
    users = [*served.rungs, *served.clicks["user_id"].value_counts().index[:3], "17", "64"]
    for name, funnel in nonempty(funnels.items()):
        for k in (1, 7, 40):
            mask = rng.random(len(catalogue)) < share
            allowed = {raw for raw, yes in zip(catalogue, mask, strict=True) if yes}
            for answer in nonempty(funnel.recommend(users, k, allowed=Bitmap.from_mask(mask)).to_json()):
                eligible = allowed - served.had(answer["user"])
                shown = ids(answer)
                assert len(set(shown)) == len(shown) == min(k, len(eligible)), (name, answer["user"])
                assert set(shown) <= eligible
                assert answer["eligible"] == len(eligible)
                assert answer["short"] == k - len(shown)


def test_items_that_nobody_ever_met_can_be_recommended_on_every_rung(
    served: Served, funnels: dict[str, Funnel]
) -> None:
    for funnel in nonempty(funnels.values()):
        index = funnel.retriever.index
        assert index is None or index.size == len(served.items)
        for answer in funnel.recommend(list(served.rungs), k=3, allowed=funnel.select(allow=NEW)).to_json():
            assert set(ids(answer)) == set(NEW)
            assert all(np.isfinite(item["score"]) for item in answer["items"])


@pytest.mark.parametrize(
    ("where", "query"),
    [
        ("category = 'Office'", "category == 'Office'"),
        ("category in ('Office', 'Kitchen') and price < 20", "category in ['Office', 'Kitchen'] and price < 20"),
        ("price >= 9.45 and not brand = 'Norda'", "price >= 9.45 and brand != 'Norda'"),
        ("price in (9.45, 47.13)", "price in [9.45, 47.13]"),
        ("published > 1705456600", "published > 1705456600"),
        ("stock = 3 or stock > 5", "stock == 3 or stock > 5"),
        ("not stock < 100", "not stock < 100"),
        ("title = 'The new1' or item_id = '5'", "title == 'The new1' or item_id == '5'"),
    ],
)
def test_a_condition_means_what_it_says_of_the_tables(
    served: Served, funnels: dict[str, Funnel], where: str, query: str
) -> None:
    table = served.items.copy()
    for name in ("price", "published", "stock"):
        table[name] = pd.to_numeric(table[name])
    expected = set(table.query(query)["item_id"])
    assert expected
    funnel = funnels["index"]
    allowed = funnel.select(where)
    assert allowed is not None
    assert {funnel.dataset.item_ids[row] for row in allowed.rows} == expected
    assert set(ids(funnel.recommend([NOBODY], k=83, allowed=allowed).to_json()[0])) == expected


def test_conditions_and_lists_add_up(served: Served, funnels: dict[str, Funnel]) -> None:
    select = funnels["index"].select
    names = funnels["index"].dataset.item_ids

    def chosen(*given: Any) -> set[str]:
        found = select(*given)
        assert found is not None
        return {names[row] for row in found.rows}

    office = chosen("category = 'Office'")
    listed = ["new1", "1", "2", "3", "4"]
    assert select() is None
    assert chosen("", listed) == set(listed)
    assert chosen("", None, listed) == set(names) - set(listed)
    assert chosen("", None, []) == set(names)
    assert chosen("category = 'Office'", listed, ["new1"]) == (office & set(listed)) - {"new1"}


def test_company_changes_nothing_whatever_the_rungs(served: Served, funnels: dict[str, Funnel]) -> None:
    """Blocks of users, of several rungs, asked twice and under a filter: the same as each alone."""
    users = [*map(str, range(1, 80)), NOBODY, PROFILED, "3", BLANK, PROFILED]
    for name, funnel in nonempty(funnels.items()):
        for allowed in (None, funnel.select("price < 30")):
            together = funnel.recommend(users, k=8, allowed=allowed).to_json()
            assert [answer["user"] for answer in together] == users
            for answer in together[::9] + together[-5:]:
                (alone,) = funnel.recommend([answer["user"]], k=8, allowed=allowed).to_json()
                assert ids(alone) == ids(answer), name
                assert (alone["rung"], alone["candidates"]) == (answer["rung"], answer["candidates"])
                for one, other in zip(alone["items"], answer["items"], strict=True):
                    assert one["score"] == pytest.approx(other["score"], abs=1e-5)
                    assert one["sources"] == other["sources"]


def test_segments_hear_their_own_and_nothing_from_after_the_cut(served: Served, funnels: dict[str, Funnel]) -> None:
    """The profiled user's list is the shrunk mean over the traits, counted on training clicks alone."""
    funnel = funnels["item_knn"]  # where no tower answers by features
    dataset = funnel.dataset
    events = dataset.events
    known = (events.parts == 0) & (events.labels[:, 0] > 0)
    size = dataset.num_catalogue
    everybody = np.bincount(events.items[known], minlength=size) / known.sum()
    traits = {"gender": "f", "region": "north", "device": "phone"}
    table = served.users.set_index("user_id").loc[list(dataset.user_ids)]
    shares = []
    for name, value in traits.items():
        mine = known & (table[name] == value).to_numpy()[events.users]
        counts = np.bincount(events.items[mine], minlength=size)
        shares.append((counts + 1000.0 * everybody) / (counts.sum() + 1000.0))
    expected = np.mean(shares, axis=0)
    row = np.array([dataset.user_rows[PROFILED]])
    model = funnel.retriever.companions["segment_popularity"]
    scores = model.score(funnel.retriever.histories(row, 3))[0]
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-8)
    offer = funnel.ladder.offer(Rung.SEGMENT, row, 10, None)
    assert scores[offer.candidates.rows[0]].tolist() == sorted(scores.tolist(), reverse=True)[:10]


def test_a_filter_of_another_catalogue_is_refused(funnels: dict[str, Funnel]) -> None:
    for user in ("1", NOBODY):
        with pytest.raises(ConfigError, match="speaks about 5 item rows"):
            funnels["index"].recommend([user], k=3, allowed=Bitmap.from_mask(np.ones(5, dtype=bool))).to_json()


def test_the_command_filters_and_says_when_there_is_no_more(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["recommend", "--run", str(served.folder), "--user", "1", "--user", NOBODY, "-k", "5"]
    (tmp_path / "allow.txt").write_text("new1\nnew2\nnew3\n\n nope \n7\n")
    (tmp_path / "block.txt").write_text("new3\n7\nnor this\n")
    lists = ["--allow", str(tmp_path / "allow.txt"), "--block", str(tmp_path / "block.txt")]
    assert main([*base, *lists, "--where", "brand = 'Norda' and price < 1", "--json"]) == 0
    out, err = capsys.readouterr()
    for answer in map(json.loads, out.splitlines()):
        assert set(ids(answer)) == {"new1", "new2"}
        assert (answer["eligible"], answer["short"]) == (2, 3)
    assert '1 of 5 allowed ids are no items of the run\'s catalogue, such as "nope"' in err
    assert '1 of 3 blocked ids are no items of the run\'s catalogue, such as "nor this"' in err
    assert main([*base, *lists]) == 0
    shown = capsys.readouterr().out
    assert shown.count("only 2 of 5") == 2
    assert "rung: history" in shown
    assert "rung: popular" in shown
    assert main([*base, "--explain"]) == 0
    shown = capsys.readouterr().out
    assert "near to" in shown
    assert shown.count("popular among everybody") == 1 + 5  # the title and every item of the user nobody knows
    assert main([*base, "--where", "price < 0"]) == 0
    out, err = capsys.readouterr()
    assert out.count("only 0 of 5") == 2
    assert "no item of the run's catalogue passes the filter" in err


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("colour = 'red'", "there is no column 'colour'; the items have brand, category, item_id, price, published, "),
        ("price = 'cheap'", "column 'price' holds numbers and cannot be compared with 'cheap'"),
        ("item_id = 5", "column 'item_id' holds text and cannot be compared with 5; put the value into quotes"),
        ("price <", "expected a number, a text in quotes, true or false, found the end"),
        ("  ", "--where is blank"),
    ],
)
def test_a_bad_condition_is_one_sentence(
    served: Served, where: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", "--run", str(served.folder), "--user", "1", "--where", where]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert sentence in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("option", "content", "code", "sentence"),
    [
        ("--allow", None, 2, "there is no file"),
        ("--allow", "\n", 1, "names no item"),
        ("--block", b"\xff\xfe", 1, "is no UTF-8 text"),
    ],
)
def test_a_bad_list_of_items_is_named(
    served: Served,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    content: str | bytes | None,
    code: int,
    sentence: str,
) -> None:
    file = tmp_path / "items.txt"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["recommend", "--run", str(served.folder), "--user", "1", option, str(file)]) == code
    err = capsys.readouterr().err
    assert sentence in err
    assert str(file) in err
