"""`python docs/document_http.py` (`make docs`): writes docs/openapi.json from the routes and their classes."""

from __future__ import annotations

import json
from pathlib import Path

TARGET = Path(__file__).resolve().parent / "openapi.json"


def document_text() -> str:
    """The whole of docs/openapi.json."""
    from recsys.serving.app import create_api
    from recsys.serving.openapi import document

    return json.dumps(document(create_api()), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(document_text(), encoding="utf-8")
