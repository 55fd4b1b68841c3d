"""What `recsys doctor --url` looks at: a running service, from outside."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from ..base.errors import ConfigError
from ..base.finding import Finding

SECONDS = 10.0
SLOW_MS = 100.0
"""An answer that takes longer is worth a look."""


def service_health(url: str, key: str | None) -> Iterator[Finding]:
    """Whether a service answers, is ready, lets the key ask, and how long an answer takes.

    Args:
        url: of its root.
        key: API key, where it asks for one.

    Raises:
        ConfigError: the URL is none of HTTP.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"--url {url} is no address of a service; expected such as http://127.0.0.1:8080")
    root = url.rstrip("/")
    status, told = _asked(f"{root}/healthz", key)
    if status != 200:
        yield Finding("problem", "answers", f"{root}/healthz says {told}; start it with `recsys serve`, or mend --url")
        return
    yield Finding("ok", "answers", "the service answers")
    status, told = _asked(f"{root}/readyz", key)
    failing = [name for name, holds in told.get("checks", {}).items() if not holds] if isinstance(told, dict) else []
    if status == 200:
        yield Finding("ok", "ready", "all its checks hold")
    else:
        yield Finding("problem", "ready", f"not ready: {', '.join(failing) or told}; its log says more")
    status, told = _asked(f"{root}/v1/info", key)
    if status != 200 or not isinstance(told, dict):
        sentence = "give --key with the scope read" if status in (401, 403) else "its log says more"
        yield Finding("problem", "info", f"/v1/info answers {status}; {sentence}")
        return
    for name, run in told["runs"].items():
        words = f"version {run['version']}, {run['items']:,} items, {run['users']:,} users"
        yield Finding("ok", f"run {name}", words)
    started = time.perf_counter()
    status, told = _asked(f"{root}/v1/recommend", key, {"k": 5})
    took = 1000 * (time.perf_counter() - started)
    if status != 200 or not isinstance(told, dict) or not told["items"]:
        yield Finding("problem", "recommend", f"a recommendation answers {status}; its log says more")
    elif took > SLOW_MS:
        yield Finding("warning", "recommend", f"an answer took {took:.0f} ms; add workers, or look at its metrics")
    else:
        yield Finding("ok", "recommend", f"an answer took {took:.1f} ms")


def _asked(url: str, key: str | None, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    """Status and JSON of a response; 0 and a sentence where there is none."""
    headers = {"content-type": "application/json", **({"x-api-key": key} if key else {})}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        try:
            return error.code, json.loads(error.read())
        except ValueError:
            return error.code, error.reason
    except (OSError, ValueError) as error:
        return 0, str(error)
