"""The page of a service in a headless browser, as people use it: narrow and wide."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from recsys.live.answering import Answering
from recsys.recommender import Recommender
from recsys.serving.config import ServeConfig
from recsys.serving.keys import Keys, add_key, read_keys
from recsys.serving.metrics import Metrics, series_of
from recsys.serving.page import FILES
from recsys.serving.runs import Runs
from recsys.serving.service import Service
from recsys.tests.support.browser import CHROMIUM, Tab, browsing
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.served import serving

LISTS = """[...document.querySelectorAll('.list')].map(
    (list) => [...list.querySelectorAll('li')].map((li) => li.dataset.item))"""
HISTORY = "document.getElementById('history').value"


def served(shop: Recommender, keys: Keys | None = None) -> Service:
    version = shop.ask({"user": "1"}).run["version"]
    runs = {name: Answering(shop.funnel, name, version) for name in ("main", "other")}
    return Service(Runs(runs), ServeConfig(page=True), Metrics(series_of((), list(runs))), keys)


@pytest.fixture(scope="module")
def page(shop: Recommender) -> Iterator[httpx.Client]:
    with serving(served(shop)) as found:
        yield found


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with browsing(tmp_path_factory.mktemp("browser")) as found:
        yield found


def fill(tab: Tab, name: str, text: str) -> None:
    tab.run(f"document.getElementById('{name}').value = {text!r}")


def press(tab: Tab, selector: str) -> None:
    tab.run(f"document.querySelector({selector!r}).click()")


def test_the_page_comes_from_the_package_alone(page: httpx.Client, client: httpx.Client) -> None:
    for path, (name, kind) in nonempty(FILES.items()):
        found = page.get(path)
        assert found.status_code == 200
        assert found.headers["content-type"].startswith(kind)
        assert "default-src 'self'" in found.headers["content-security-policy"]
        assert "set-cookie" not in found.headers
        assert "://" not in found.text.replace("http://www.w3.org/2000/svg", ""), name
    script = page.get("/page.js").text
    for way in ("innerHTML", "insertAdjacent", "document.write", "eval(", "localStorage", "sessionStorage", "cookie"):
        assert way not in script
    assert client.get("/").headers["content-type"] == "application/json"  # without the page, an index
    assert "/page.js" not in page.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize("width", [360, 1280])
def test_people_ask_compare_and_go_on(page: httpx.Client, tab: Tab, shop: Recommender, width: int) -> None:
    tab.complaints.clear()
    tab.open(str(page.base_url), width)
    assert "120 users, 80 items" in tab.until(
        "(/users/.test(served && at('served').textContent)) && at('served').textContent"
    )
    fill(tab, "user", "7")
    press(tab, "button[type=submit]")
    tab.until("document.querySelectorAll('.list li').length === 10")
    assert tab.run(LISTS) == [[item["item"] for item in shop.ask({"user": "7"}).items]]
    text: str = tab.run("document.querySelector('.list').innerText")
    first: dict[str, Any] = shop.ask({"user": "7", "explain": True}).to_json()["items"][0]
    assert first["title"] in text
    assert "click 0." in text
    assert "two_tower" in text
    assert "because of" in text

    press(tab, ".list li .act")  # as if the first item had been clicked
    tab.until(f"{HISTORY} && document.querySelector('.list li').dataset.item !== {first['item']!r}")
    assert tab.run(HISTORY) == first["item"]
    told = shop.ask({"user": "7", "history": [first["item"]]})
    assert tab.run(LISTS) == [[item["item"] for item in told.items]]

    fill(tab, "beside", "other")
    press(tab, "button[type=submit]")
    tab.until("document.querySelectorAll('.list').length === 2")
    both = tab.run(LISTS)
    assert both[0] == both[1]
    assert "10 of 10 in both lists" in tab.run("document.querySelector('.list').innerText")
    assert tab.run("document.querySelectorAll('.list .tag').length") >= 20

    press(tab, ".list li .name")
    tab.until("!document.getElementById('similar').hidden")
    seed = shop.similar([both[0][0]], 10).to_json()[0]
    shown = tab.run("[...document.querySelectorAll('#similar li')].map((li) => li.dataset.item)")
    assert shown == [item["item"] for item in seed["items"]]
    # Nothing sticks out to the side.
    assert tab.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    if folder := os.environ.get("RECSYS_PICTURES"):
        tab.picture(Path(folder) / f"page-{width}.png")

    fill(tab, "beside", "")
    fill(tab, "where", "price <")
    press(tab, "button[type=submit]")
    assert "where" in tab.until(
        "!document.getElementById('error').hidden && document.getElementById('error').innerText"
    )
    assert [one for one in tab.complaints if "422" not in one] == []  # the browser tells of the refused request


def test_users_are_suggested_by_the_beginning_of_their_ids(tab: Tab, page: httpx.Client) -> None:
    tab.open(str(page.base_url), 360)
    tab.until("Object.keys(served).length")
    fill(tab, "user", "11")
    tab.run("at('user').dispatchEvent(new Event('input'))")
    tab.until("at('users').options.length")
    shown = tab.run("[...at('users').options].map((one) => one.value)")
    assert shown == page.get("/v1/users", params={"prefix": "11", "limit": 8}).json()["users"]
    assert all(user.startswith("11") for user in nonempty(shown))


def test_texts_of_the_run_are_never_markup(tab: Tab, page: httpx.Client) -> None:
    tab.open(str(page.base_url), 1280)
    tab.until("Object.keys(served).length")
    nasty = "<img src=x onerror=window.broken=1><b id=broken>"
    item = {"item": nasty, "title": nasty, "score": 1, "tasks": {}, "sources": [nasty]}
    answer = {
        "run": {"name": nasty, "version": "v"},
        "user": nasty,
        "rung": nasty,
        "candidates": 1,
        "eligible": 1,
        "timings_ms": {"total": 1},
        "relaxed": [nasty],
        "items": [item | {"why": {"because_of": [{"item": nasty}]}}],
    }
    tab.run(f"at('lists').replaceChildren(list({json.dumps(answer)}))")
    assert tab.run("document.getElementById('broken')") is None
    assert tab.run("window.broken") is None
    assert nasty in tab.run("document.querySelector('.list').textContent")


def test_with_keys_the_page_asks_for_one_and_forgets_it(tab: Tab, shop: Recommender, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    key = add_key(file, "page", ("read",))
    with serving(served(shop, Keys(read_keys(file)))) as locked:
        assert locked.get("/").status_code == 200  # the page itself says nothing of the run
        tab.open(str(locked.base_url), 1280)
        assert "key" in tab.until("!at('error').hidden && at('error').innerText")
        fill(tab, "key", key)
        press(tab, "button[type=submit]")
        tab.until("document.querySelectorAll('.list li').length === 10")
        fill(tab, "user", "1")
        tab.run("at('user').dispatchEvent(new Event('input'))")
        tab.until("!mayLookUp")  # a key that may only read is not asked with again
        assert tab.run("at('users').options.length + at('error').innerText") == "0"
        assert tab.run("document.cookie + JSON.stringify({...localStorage, ...sessionStorage})") == "{}"
        tab.call("Page.reload")
        tab.until("document.readyState === 'complete' && !at('error').hidden")
        assert tab.run("at('key').value") == ""
