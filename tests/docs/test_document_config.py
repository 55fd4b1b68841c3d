"""docs/config.md says what the classes say, and says it of every key."""

from __future__ import annotations

import re

from recsys.docs.document_config import TARGET, document
from recsys.ranking.ranker import ranker_kinds


def test_the_page_is_up_to_date() -> None:
    assert TARGET.read_text(encoding="utf-8") == document(), "run `make docs`"


def test_every_key_has_a_sentence() -> None:
    page = document()
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.*) \|$", page, flags=re.MULTILINE)
    assert len(rows) > 100
    assert [name for name, *_, meaning in rows if not meaning.strip()] == []
    assert {name for name in ranker_kinds() if f'kind = "{name}"' not in page} == set()
