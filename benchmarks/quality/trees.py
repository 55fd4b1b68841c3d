"""LightGBM on the same encoded rows: what a user would pick instead of a network, one tuned model per task.

It reads the categorical codes, the numbers and the as-of counts; ids (vocabularies above `MOST_VALUES`), buckets of
numbers and sequences are left out. The settings were tuned beforehand: many weak trees, strong regularisation, early
stopping on validation log-loss (on AUC it stops far too early).
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from recsys.base.arrays import F32
from recsys.benchmarks.harness.finished import Arrays
from recsys.data.dataset import Dataset
from recsys.data.split import Part

MOST_VALUES = 1000
ROUNDS, PATIENCE, BLOCK = 3000, 50, 16_384
_CENSUS: dict[str, Any] = {
    "learning_rate": 0.05,
    "num_leaves": 31,
    "feature_fraction": 0.3,
    "bagging_fraction": 0.9,
    "bagging_freq": 1,
    "lambda_l2": 10.0,
    "native_categories": True,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "census": _CENSUS,
    "census2": _CENSUS,
    "kuairand": {
        "learning_rate": 0.03,
        "num_leaves": 15,
        "min_data_in_leaf": 200,
        "feature_fraction": 0.5,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 50.0,
        "native_categories": False,
    },
}


def available() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec("lightgbm") is not None


def matrix(dataset: Dataset, part: Part) -> tuple[F32, list[str], list[str]]:
    """Rows of a part as one matrix [R, F], the names of its columns, and which of them are categories."""
    layout = dataset.layout
    sizes, numeric = layout.sizes, {*layout.query.numeric, *layout.item.numeric}
    columns: list[tuple[str, int]] = []
    for side, name in (("query", layout.query), ("item", layout.item)):
        columns += [(side, i) for i, c in enumerate(name.categorical) if c not in numeric and sizes[c] <= MOST_VALUES]
    names = [getattr(layout, side).categorical[i] for side, i in columns]
    parts = []
    rows = dataset.rows(part)
    for start in range(0, len(rows), BLOCK):
        batch = dataset.batch(rows[start : start + BLOCK])
        codes = [getattr(batch, side).categorical[:, i].numpy() for side, i in columns]
        numbers = [batch.query.numeric.numpy(), batch.item.numeric.numpy()]
        parts.append(np.column_stack([*codes, *numbers]).astype(np.float32))
    return np.concatenate(parts), [*names, *layout.query.numeric, *layout.item.numeric], names


def train(dataset: Dataset, name: str, seed: int, threads: int) -> Arrays:
    """Logits of every task on the validation and test rows, `<part>/<task>` -> float32 [R].

    Args:
        dataset: encoded rows.
        name: key of `SETTINGS`.
        seed: of the samples.
        threads: used by LightGBM.
    """
    import lightgbm as lgb

    settings = dict(SETTINGS[name])
    native = settings.pop("native_categories")
    tables = {part: matrix(dataset, part) for part in (Part.TRAIN, Part.VALID, Part.TEST)}
    names, categories = tables[Part.TRAIN][1:]
    arrays: Arrays = {}
    for column, task in enumerate(dataset.task_names):
        sets: dict[Part, Any] = {}
        for part in (Part.TRAIN, Part.VALID):
            rows = dataset.rows(part).numpy()
            mask, labels = dataset.events.mask[rows, column], dataset.events.labels[rows, column]
            sets[part] = lgb.Dataset(
                tables[part][0][mask],
                labels[mask],
                feature_name=[str(i) for i in range(len(names))],
                categorical_feature=list(range(len(categories))) if native else [],
                reference=sets.get(Part.TRAIN),
                free_raw_data=False,
            )
        parameters = {
            **settings,
            "objective": "binary",
            "metric": "binary_logloss",
            "seed": seed,
            "num_threads": threads,
            "verbosity": -1,
        }
        stop = lgb.early_stopping(PATIENCE, verbose=False)
        model = lgb.train(parameters, sets[Part.TRAIN], ROUNDS, valid_sets=[sets[Part.VALID]], callbacks=[stop])
        for part in (Part.VALID, Part.TEST):
            scores = model.predict(tables[part][0], raw_score=True)
            arrays[f"{part.name.lower()}/{task}"] = np.asarray(scores, dtype=np.float32)
    return arrays
