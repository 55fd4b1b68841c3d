"""The tiny run as a service."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

import recsys
from recsys.live.answering import Answering
from recsys.recommender import Recommender
from recsys.serving.config import ServeConfig
from recsys.serving.metrics import Metrics, series_of
from recsys.serving.runs import Runs
from recsys.serving.service import Service
from recsys.tests.support.served import serving
from recsys.tests.support.tiny import TinyRun


@pytest.fixture(scope="session")
def shop(tiny_run: TinyRun) -> Recommender:
    """The tiny run in Python."""
    return recsys.load(tiny_run.folder)


@pytest.fixture(scope="session")
def service(shop: Recommender) -> Service:
    """It as a service, with a second run beside it."""
    version = shop.ask({"user": "1"}).run["version"]
    runs = {name: Answering(shop.funnel, name, version) for name in ("main", "other")}
    paths = ("/v1/recommend", "/v1/similar", "/healthz")
    return Service(Runs(runs), ServeConfig(read_seconds=0.5), Metrics(series_of(paths, list(runs))))


@pytest.fixture(scope="session")
def client(service: Service) -> Iterator[httpx.Client]:
    """Asks it over a loopback socket."""
    with serving(service) as found:
        yield found
