"""The unit of a task's outputs."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.data.schema import TaskSpec
from recsys.ranking.labels import label_values


@pytest.mark.parametrize("log1p", [False, True])
def test_outputs_come_back_in_the_unit_of_the_label(log1p: bool) -> None:
    labels = np.array([0.0, 0.5, 3.0, 250.0])
    trained = np.log1p(labels) if log1p else labels
    found = label_values(TaskSpec(name="watch", kind="regression", log1p=log1p), trained.astype(np.float32))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, labels, rtol=1e-5)
