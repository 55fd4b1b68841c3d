"""Two-stage recommendation: a two-tower retriever, a multi-task ranker, and the evaluation that measures both.

    import pandas as pd, recsys
    rec = recsys.train(events=pd.read_csv("events.csv"), items=pd.read_csv("items.csv"), tasks=["click"])
    rec.recommend(["42", "43"], k=10)
    rec.recommend(history=["318", "12"], context={"device": "phone"})
    rec.evaluate()
    rec.save("runs/shop");  rec = recsys.load("runs/shop")

Names are loaded when they are first used, so that `import recsys` is light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import embed_items, evaluate_folds, evaluate_predictions, export, load, train
    from .base.errors import ConfigError, DataError, RecsysError, RunError
    from .configs.run import RunConfig
    from .data.dataset import Dataset
    from .data.subject import Subject
    from .live.answers import Answer, ScoreAnswer, SimilarAnswer
    from .live.requests import Event, Receipt, Request, ScoreRequest, SimilarRequest
    from .recommender import Recommender
    from .report.report import Report
    from .training.callbacks import Callback

_WHERE = {
    "train": "api",
    "load": "api",
    "export": "api",
    "embed_items": "api",
    "Recommender": "recommender",
    "Callback": "training.callbacks",
    "evaluate_folds": "api",
    "evaluate_predictions": "api",
    "Report": "report.report",
    "Dataset": "data.dataset",
    "Subject": "data.subject",
    "Request": "live.requests",
    "SimilarRequest": "live.requests",
    "ScoreRequest": "live.requests",
    "Event": "live.requests",
    "Receipt": "live.requests",
    "Answer": "live.answers",
    "SimilarAnswer": "live.answers",
    "ScoreAnswer": "live.answers",
    "RunConfig": "configs.run",
    "RecsysError": "base.errors",
    "ConfigError": "base.errors",
    "DataError": "base.errors",
    "RunError": "base.errors",
}
"""Public name -> module it is loaded from."""

__all__ = [
    "Answer",
    "Callback",
    "ConfigError",
    "DataError",
    "Dataset",
    "Event",
    "Receipt",
    "Recommender",
    "RecsysError",
    "Report",
    "Request",
    "RunConfig",
    "RunError",
    "ScoreAnswer",
    "ScoreRequest",
    "SimilarAnswer",
    "SimilarRequest",
    "Subject",
    "__version__",
    "embed_items",
    "evaluate_folds",
    "evaluate_predictions",
    "export",
    "load",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from .base.package import package_version

        return package_version()
    if name in _WHERE:
        value = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
