"""Item vectors and queries to measure an index with: two drawn ones, and those of a trained tower.

An index that parts space into cells looks best where space has cells. So there are three kinds, and no figure is given
without its kind:

- `clusters`: unit vectors around random centres, 250 a centre, queries around the same centres: the usual test, and
  the most flattering.
- `smooth`: one normal distribution with a slowly decaying spectrum, scaled to unit length: no clusters at all, and
  every query has thousands of items nearly as good as its best. The hardest.
- `trained`: the vectors of a two-tower model trained on MovieLens-1M, item bias included, not of unit length; and as
  queries the vectors of real users, who are no copies of any item. There are 3,883 films, so the rest is drawn: a film,
  moved towards a draw from the normal distribution with the mean and covariance of all films, `x = m + sqrt(1 - a^2)
  (film - m) + a (draw - m)`, a = 0.5. Mean and covariance stay those of the trained vectors, and clumps remain where
  films clump.
"""

from __future__ import annotations

import numpy as np

from recsys.benchmarks.harness.provenance import ROOT

KINDS = ("clusters", "smooth", "trained")
MOVED = 0.5
"""How far the drawn items of `trained` are from a real film: 0 would repeat the films, 1 forget them."""
CONFIG = ROOT / "configs" / "movielens-1m.toml"


def make_vectors(
    kind: str, n: int, dim: int, num_queries: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Item vectors float32 [n, dim] and query vectors float32 [num_queries, dim]; see the module.

    Raises:
        ValueError: no kind is called so.
    """
    if kind == "trained":
        items, users = trained(dim, num_queries, rng)
        return upsampled(items, n, rng), users
    if kind not in KINDS:
        raise ValueError(f"vectors are {', '.join(KINDS)}; found {kind!r}")
    centres = rng.standard_normal((max(n // 250, 1), dim), dtype=np.float32)
    spectrum = (np.arange(1, dim + 1, dtype=np.float32)) ** -0.5

    def draw(count: int) -> np.ndarray:
        noise = rng.standard_normal((count, dim), dtype=np.float32)
        points = noise * spectrum if kind == "smooth" else centres[rng.integers(0, len(centres), count)] + 0.5 * noise
        unit: np.ndarray = points / np.linalg.norm(points, axis=1, keepdims=True)
        return unit

    return draw(n), draw(num_queries)


def upsampled(items: np.ndarray, n: int, rng: np.random.Generator, moved: float = MOVED) -> np.ndarray:
    """n vectors with the mean and covariance of `items` [N, dim]; the first are `items` themselves."""
    n = max(n, 1)
    centre = items.mean(0)
    factor = np.linalg.cholesky(np.cov(items.T.astype(np.float64)) + 1e-9 * np.eye(items.shape[1])).astype(np.float32)
    out = np.empty((n, items.shape[1]), dtype=np.float32)
    out[: len(items)] = items[:n]
    for start in range(len(items), n, 100_000):
        stop = min(start + 100_000, n)
        film = items[rng.integers(0, len(items), stop - start)] - centre
        drawn = rng.standard_normal(film.shape, dtype=np.float32) @ factor.T
        out[start:stop] = centre + np.sqrt(1 - moved**2) * film + moved * drawn
    return out


def trained(dim: int, num_queries: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of MovieLens-1M's films and of as many of its users, from a tower trained for two epochs here."""
    from recsys.base.errors import ConfigError
    from recsys.benchmarks.harness.sources import located
    from recsys.configs.run import load_config
    from recsys.data.build import load_dataset
    from recsys.data.dataset import NOW
    from recsys.retrieval.towers.train import item_vectors, query_vectors, train_two_tower
    from recsys.training.runtime import start_runtime

    # The bias of an item is one more dimension of its vector, so the towers are one narrower.
    changes = [f"retrieval.tower.dim={dim - 1}", "retrieval.fit.epochs=2", 'retrieval.fit.metric=""']
    config = load_config(CONFIG, [*changes, "runtime.threads=1"])
    dataset = load_dataset(located(config.data), CONFIG.parent, config.seed)
    model, data, _ = train_two_tower(dataset, config.retrieval, start_runtime(config.runtime, config.seed), config.seed)
    if num_queries > data.history.num_users:
        raise ConfigError(f"there are {data.history.num_users} users to ask as, not {num_queries}; lower --queries")
    users = np.sort(rng.choice(data.history.num_users, num_queries, replace=False))
    queries = query_vectors(model, data, users, data.ends(NOW)[users])
    return item_vectors(model, data), queries[rng.permutation(num_queries)]
