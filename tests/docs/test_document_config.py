"""docs/config.md says what the classes say, and says it of every key."""

from __future__ import annotations

import re

from recsys.configs.run import BASIC_KEYS, RunConfig
from recsys.docs.document_config import TARGET, document, key_field
from recsys.ranking.ranker import ranker_kinds


def test_the_page_is_up_to_date() -> None:
    assert TARGET.read_text(encoding="utf-8") == document(), "run `make docs`"


def test_every_key_has_a_sentence() -> None:
    page = document()
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (?:basic|advanced) \| (.*) \|$", page, flags=re.MULTILINE)
    assert len(rows) > 100
    assert [name for name, *_, meaning in rows if not meaning.strip()] == []
    assert {name for name in ranker_kinds() if f'kind = "{name}"' not in page} == set()


def test_the_page_opens_with_a_short_list_of_keys_that_exist() -> None:
    assert 20 <= len(set(BASIC_KEYS)) == len(BASIC_KEYS) <= 30
    start, every = document().split("## Every key")
    for key in BASIC_KEYS:
        assert key_field(RunConfig, key).description, key
        assert start.count(f"| `{key}` |") == 1
    assert len(re.findall(r"\| basic \|", every)) == len(BASIC_KEYS)
