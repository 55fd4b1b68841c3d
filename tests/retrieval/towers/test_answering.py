"""A single user's vector is that of the tower, recorded or not, padded or not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.base.settings import Settings
from recsys.data.dataset import NOW, Dataset
from recsys.nn.recorded import MET
from recsys.nn.sequence import ENCODERS
from recsys.retrieval.towers.answering import UserPasses
from recsys.retrieval.towers.train import build_two_tower, item_contents, item_vectors, query_vectors
from recsys.retrieval.towers.two_tower import TwoTowerConfig
from recsys.retrieval.towers.windows import TowerData
from recsys.tests.support.shop import Shop


@pytest.fixture(scope="module")
def dataset(shop: Shop) -> Dataset:
    return shop.dataset("time")


@pytest.mark.parametrize("encoder", sorted(ENCODERS.entries()))
def test_users_alone_have_the_vectors_of_the_tower(dataset: Dataset, encoder: str) -> None:
    config = TwoTowerConfig.model_validate({"dim": 8, "history": {"encoder": encoder, "hidden": 8, "max_length": 20}})
    assert isinstance(config, Settings)
    data = TowerData.of(dataset, config, "click")
    model = build_two_tower(data, config, 0).eval()
    passes, content = UserPasses(model, data.max_length), item_contents(model, data, item_vectors(model, data))
    users = np.repeat(np.arange(dataset.num_users), 2)
    ends = data.ends(NOW)
    alone = [query_vectors(model, data, users[[i]], ends[users[[i]]], content, passes)[0] for i in range(len(users))]
    np.testing.assert_allclose(alone, query_vectors(model, data, users, ends[users]), rtol=1e-4, atol=1e-5)
    assert passes.recordings >= 1
    assert len(users) > 4 * MET
    torch.testing.assert_close(content[:, :8], model.embed_content(data.items).detach()[:, :8])
