"""A token says what the answer said, to nobody who changes a bit of it; the key is its owner's alone."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recsys
from recsys.base.errors import RunError
from recsys.configs.rules import RulesConfig
from recsys.live.errors import RequestError
from recsys.live.tokens import TokenError, Tokens, kept_key, stand_in
from recsys.tests.support.tiny import TinyRun

KEY = bytes(range(32))


@given(
    request=st.text(max_size=64),
    item=st.text(min_size=1, max_size=64),
    slot=st.integers(1, 1000),
    propensity=st.none() | st.floats(0, 1, exclude_min=True),
    among=st.integers(0, 2**32 - 1),
    version=st.from_regex(r"[0-9a-f]{12}", fullmatch=True),
    time=st.integers(0, 2**32 * 1000),
)
@settings(max_examples=100, deadline=None)
def test_a_token_says_what_was_signed(
    request: str, item: str, slot: int, propensity: float | None, among: int, version: str, time: int
) -> None:
    token = Tokens(KEY).sign(request, item, slot, propensity, among, version, time / 1000)
    assert len(token) == 79
    found = Tokens(KEY).read(token, item)
    assert (found.slot, found.propensity, found.among, found.version) == (slot, propensity, among, version)
    assert math.isclose(found.time, time / 1000, abs_tol=1e-9)
    assert (found.request, found.item) == (stand_in(request).hex(), stand_in(item).hex())
    with pytest.raises(TokenError, match="another item"):
        Tokens(KEY).read(token, item + "x")
    with pytest.raises(TokenError, match="no answer of this service"):
        Tokens(KEY[::-1]).read(token)


def test_no_changed_character_passes() -> None:
    tokens = Tokens(KEY)
    token = tokens.sign("r", "318", 5, 0.25, 90, "0123456789ab", 1.7e9)
    tokens.read(token)
    for place, letter in enumerate(token):
        for other in {"A", "_", "x"} - {letter}:
            changed = token[:place] + other + token[place + 1 :]
            if place < len(token) - 1:  # the last character has two bits that say nothing
                with pytest.raises(TokenError):
                    tokens.read(changed)
    for wrong in ("", "A", token[:-4], token + "AAAA", "ü" * 79, token * 2):
        with pytest.raises(TokenError):
            tokens.read(wrong)


def test_seeds_are_of_key_request_and_page() -> None:
    one, other = Tokens(KEY), Tokens(KEY[::-1])
    assert one.seed("r", 1) == Tokens(KEY).seed("r", 1)
    assert len({one.seed("r"), one.seed("r", 1), one.seed("r1"), other.seed("r")}) == 4


def test_the_key_is_made_once_and_is_nobody_elses(tmp_path: Path) -> None:
    file = tmp_path / "token.key"
    made: list[bytes] = []

    def sign() -> None:
        made.append(kept_key(file))

    threads = [threading.Thread(target=sign) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["token.key"]
    file.chmod(0o644)
    with pytest.raises(RunError, match="may be read by others"):
        kept_key(file)
    file.write_text("short")
    file.chmod(0o600)
    with pytest.raises(RunError, match="holds no key"):
        kept_key(file)


def test_what_is_shown_comes_back_with_its_propensity(tiny_run: TinyRun, tmp_path: Path) -> None:
    """From answer to event to the table of the next training, also through another process with the same state."""
    rules = RulesConfig.model_validate({"explore": {"slots": [2], "epsilon": 0.5}})
    state = recsys.load(tiny_run.folder, rules=rules, state=tmp_path / "state")
    answers = state.ask_many([{"user": user, "k": 3, "request_id": user} for user in ("1", "2", "3")])
    shown = [
        {"user": answer.user, "item": item["item"], "click": 0, "token": item["token"], "propensity": 0.9}
        for answer in answers
        for item in answer.items
    ]
    state.add_events(shown)
    other = recsys.load(tiny_run.folder, rules=rules, state=tmp_path / "state")
    other.add_events([{**shown[1], "click": 1}])
    with pytest.raises(RequestError, match="/0/token: the token is of another item"):
        other.add_events([{**shown[1], "item": shown[2]["item"]}])
    with pytest.raises(RequestError, match="/0/token: the token was given by no answer of this service"):
        other.add_events([{**shown[1], "token": "t"}])
    assert len(other.add_events([{**shown[1], "token": "t"}, shown[0]], skip=True).refused) == 1
    found = other.export_state(tmp_path / "day.parquet")
    table = pq.read_table(found.files["events"]).to_pylist()
    told = {(str(row["user_id"]), str(row["item_id"])): (row["propensity"], row["click"]) for row in table}
    assert len(told) == len(table) == 9
    for answer in answers:
        for item in answer.items:
            propensity, click = told[str(answer.user), item["item"]]
            drawn = item["propensity"]
            assert propensity in (None, "") if drawn is None else float(propensity) == pytest.approx(drawn)
            assert float(click) == (item["token"] == shown[1]["token"])
    state.close()
    other.close()
