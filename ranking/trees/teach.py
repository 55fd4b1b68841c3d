"""Boosted trees as teachers of a network: what they say of training rows that they did not grow on.

Trees have learned the labels of their own rows by heart, and what they say of those teaches little else. So the rows
are parted into folds, and each fold is predicted by trees of the others; the network then learns what trees see of
rows like these (networks that are distilled from trees: Ke et al., DeepGBM, KDD 2019, there from their leaves).
"""

from __future__ import annotations

import numpy as np

from ...base.arrays import F32
from ...data.dataset import Dataset
from ...data.split import Part
from ..config import RankingConfig
from .fit import Grower, labelled, objective
from .forest import Forest, predicted

FOLDS = 5


def out_of_fold(dataset: Dataset, config: RankingConfig, seed: int, threads: int) -> dict[str, F32]:
    """Logit (or value, as it is learned) of every task on the training rows, float32 [R].

    Args:
        dataset: encoded data; its validation rows say when to stop.
        config: the `[ranking]` section; `trees` says how they grow.
        seed: of the folds and of the samples.
        threads: used by LightGBM.
    """
    forest = Forest(config.trees, dataset.layout, dataset.config.tasks)
    rows = {part: dataset.rows(part) for part in (Part.TRAIN, Part.VALID)}
    tables = {part: forest.columns.of_rows(dataset, chosen) for part, chosen in rows.items()}
    fold = np.random.default_rng(seed).integers(0, FOLDS, len(rows[Part.TRAIN]))
    grower = Grower(config.trees, seed, threads)
    found: dict[str, F32] = {}
    for column, task in enumerate(dataset.config.tasks):
        valid = labelled(dataset, rows[Part.VALID], tables[Part.VALID], column, task, config)
        said = np.zeros(len(fold), dtype=np.float32)
        for left_out in range(FOLDS):
            others, own = fold != left_out, fold == left_out
            train = labelled(dataset, rows[Part.TRAIN][others], tables[Part.TRAIN][others], column, task, config)
            if len(train[1]):
                names = forest.columns.names
                trees = grower.trees(task.name, train, valid, objective(task), forest.columns.categories, names)
                said[own] = predicted(trees, tables[Part.TRAIN][own])
        found[task.name] = said
    return found
