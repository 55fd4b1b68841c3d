"""The off-policy circle in the embedded world: serve with draws, log, estimate another policy, compare with the truth.

A run trained on the world's log serves a week through `Recommender.ask`, one place of every list drawn. A visitor looks
at that place and clicks with the world's own probability. The log of it, item, propensity (as the token says it) and
click, is all that an estimator sees; it gives by SNIPS the value of the serving policy and of a second one, which draws
less and more sharply. What both really earn follows from the world: their probabilities of every item, times its
probability of a click, over visitors as they come. Every seed is another week.

The probabilities of both policies are worked out here, apart from the code that draws, and every logged propensity is
compared with them.

    python benchmarks/quality/off_policy_circle.py --seeds 1-100
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys import api
from recsys.base.arrays import F64, I64
from recsys.benchmarks.harness.lab import paragraphs
from recsys.benchmarks.harness.provenance import ROOT, Json, provenance
from recsys.benchmarks.harness.results import Book, Record
from recsys.benchmarks.harness.session import Session, parser, run, say, start
from recsys.configs.rules import ExploreConfig, RulesConfig
from recsys.configs.run import load_config
from recsys.data.dataset import NOW
from recsys.data.world.simulate import SimulateConfig, Truth, load_truth, simulate
from recsys.evaluation.config import EvaluationConfig
from recsys.evaluation.off_policy import off_policy_value
from recsys.funnel.funnel import Funnel
from recsys.live.answering import Answering
from recsys.live.requests import Request
from recsys.pipeline.publish import train_run
from recsys.recommender import Recommender

SLOT = 2
"""Place that is drawn; the one above it is the funnel's first."""
SERVED = ExploreConfig(slots=(SLOT,), epsilon=0.3, temperature=1.0)
SECOND = ExploreConfig(slots=(SLOT,), epsilon=0.1, temperature=0.7)
WORLD = SimulateConfig(users=300, items=150, sessions=3_000, days=30, seed=11)
SETTINGS = (
    "runtime.threads=1",
    "retrieval.fit.epochs=4",
    "retrieval.tower.dim=16",
    "retrieval.num_candidates=50",
    "ranking.fit.epochs=2",
    "ranking.batch_size=512",
    "ranking.model.num_experts=2",
    "ranking.model.expert_hidden=[16]",
    "blend.kind=task",
    "blend.task=click",
)
POLICIES = {"served": SERVED, "second": SECOND}


@dataclass(frozen=True)
class Circle:
    """A served world.

    Attributes:
        shop: answers, by rules that draw one place.
        users: raw ids [U].
        visits: float64 [U], how likely each is to be the next visitor.
        clicks: float64 [U, N], probability of a click in the drawn place, by item row of the run.
        policies: name -> float64 [U, N], probability of each item in that place.
    """

    shop: Recommender
    users: list[str]
    visits: F64
    clicks: F64
    policies: dict[str, F64]

    @classmethod
    def of(cls, shop: Recommender, truth: Truth) -> Circle:
        """What is true of a run of a world."""
        data = shop.trained.dataset
        rows = np.array([data.user_rows[str(user)] for user in truth.user_ids if str(user) in data.user_rows])
        column = {str(item): place for place, item in enumerate(truth.item_ids.tolist())}
        line = {str(user): place for place, user in enumerate(truth.user_ids.tolist())}
        users = [data.user_ids[row] for row in rows]
        items = [column[data.item_ids[row]] for row in range(data.num_catalogue)]
        clicks = truth.p_click[np.ix_([line[user] for user in users], items)] * truth.examination[SLOT - 1]
        visits = np.bincount(data.events.users, minlength=data.num_users)[rows].astype(np.float64)
        policies = {name: chances(shop.funnel, rows, explore) for name, explore in POLICIES.items()}
        return cls(shop, users, visits / visits.sum(), clicks.astype(np.float64), policies)

    def value(self, policy: str) -> float:
        """What a policy earns: clicks in the drawn place per visit."""
        return float(self.visits @ (self.policies[policy] * self.clicks).sum(1))

    def week(self, seed: int, requests: int, config: EvaluationConfig) -> dict[str, Json]:
        """Serve a week and estimate both policies from its log.

        Raises:
            AssertionError: a logged propensity is not the probability of the policy that served.
        """
        rng = np.random.default_rng(seed)
        visitors = rng.choice(len(self.users), requests, p=self.visits)
        asked = [
            Request(user=self.users[user], k=SLOT, request_id=f"{seed}-{number}")
            for number, user in enumerate(visitors.tolist())
        ]
        shown = [answer.items[SLOT - 1] for answer in self.shop.ask_many(asked)]
        items = np.array([self.shop.trained.dataset.item_rows[item["item"]] for item in shown], dtype=np.int64)
        served = self.shop.engine.served
        assert isinstance(served, Answering)
        tokens = [served.tokens.read(item["token"] or "", item["item"]) for item in shown]
        propensities = np.array([token.propensity for token in tokens], dtype=np.float64)
        assert np.allclose(propensities, self.policies["served"][visitors, items], rtol=1e-4), "wrong propensities"
        rewards = (rng.random(requests) < self.clicks[visitors, items]).astype(np.float64)
        return {
            name: off_policy_value(
                rewards, propensities, np.minimum(table[visitors, items], 1.0), visitors, config=config
            )
            for name, table in self.policies.items()
        }


def chances(funnel: Funnel, rows: I64, explore: ExploreConfig) -> F64:
    """Probability of every item in the drawn place, behind the funnel's best items: float64 [U, N]."""
    count = funnel.trained.config.retrieval.num_candidates
    ranked = funnel.rank(rows, funnel.retriever.candidates(rows, NOW, count), NOW)
    seen = funnel.retriever.histories(rows, NOW).excluded
    found = np.zeros((len(rows), funnel.dataset.num_catalogue))
    for place in range(len(rows)):
        order = np.argsort(-ranked.scores[place], kind="stable")
        order = order[np.isfinite(ranked.scores[place][order])]
        listed = ranked.rows[place][order]
        may = np.ones(found.shape[1], dtype=bool)
        may[seen[place]] = False
        may[listed[: SLOT - 1]] = False
        rest, scores = listed[SLOT - 1 :], ranked.scores[place][order][SLOT - 1 :]
        sharp = np.maximum(scores, 1e-12) ** (1.0 / explore.temperature)
        found[place, may] = explore.epsilon / may.sum()
        found[place, rest] += (1.0 - explore.epsilon) * sharp / sharp.sum()
    return found


def circle(folder: Path, session: Session) -> Circle:
    """Make the world in a folder, train a run on it and stand before its visitors."""
    simulate(WORLD, folder)
    shutil.copy(ROOT / "configs" / "demo.toml", folder / "demo.toml")
    session.runtime(1)
    train_run(load_config(folder / "demo.toml", SETTINGS), folder / "run", base=folder)
    shop = api.load(folder / "run", rules=RulesConfig(explore=SERVED))
    return Circle.of(shop, load_truth(folder))


def summary(found: dict[int, dict[str, Json]], truth: dict[str, float]) -> dict[str, dict[str, dict[str, float]]]:
    """Policy -> seed -> its estimate, how far it is off, and whether its interval holds the truth."""
    return {
        policy: {
            str(seed): {
                "truth": value,
                "snips": week[policy]["snips"],
                "off": week[policy]["snips"] - value,
                "inside": float(week[policy]["snips_ci"][0] <= value <= week[policy]["snips_ci"][1]),
                "width": week[policy]["snips_ci"][1] - week[policy]["snips_ci"][0],
                "mean_weight": week[policy]["mean_weight"],
                "effective": week[policy]["effective_sample_size"],
            }
            for seed, week in found.items()
        }
        for policy, value in truth.items()
    }


def main() -> None:
    """See the module."""
    options = parser(__doc__ or "", [], seeds="1-100")
    options.add_argument("--requests", type=int, default=600, help="visits of a week (default: %(default)s)")
    session = start(options)
    if session.args.list:
        print("\n".join(POLICIES))
        return
    config = EvaluationConfig()
    with tempfile.TemporaryDirectory() as folder:
        served = circle(Path(folder), session)
        seeds = session.seeds[:2] if session.smoke else session.seeds
        found = {seed: served.week(seed, session.args.requests, config) for seed in seeds}
        served.shop.close()
        fingerprint = served.shop.trained.dataset.fingerprint
    truth = {name: served.value(name) for name in POLICIES}
    columns = {
        "truth": "truth",
        "snips": "SNIPS",
        "off": "off by",
        "inside": "truth within the 95 % interval",
        "width": "width of the interval",
        "mean_weight": "mean weight",
        "effective": "effective sample size",
    }
    title = "The off-policy circle in the embedded world"
    about: Json = provenance()
    book = Book("off-policy-circle", title, paragraphs(__doc__), columns, session.command, folder=session.args.out)
    for policy, per_seed in summary(found, truth).items():
        means = {name: float(np.mean([one[name] for one in per_seed.values()])) for name in columns}
        say(f"{policy}: " + " ".join(f"{name} {value:.4f}" for name, value in means.items()))
        explore, settings = POLICIES[policy], {"world": WORLD.model_dump(), "slot": SLOT}
        book.add(
            Record(
                variant=policy,
                group="policies",
                about=f"epsilon {explore.epsilon:g}, temperature {explore.temperature:g}",
                command=session.command_of(policy),
                seeds=seeds,
                data=fingerprint,
                settings=settings | {"requests": session.args.requests},
                per_seed=per_seed,
                **about,
            )
        )


if __name__ == "__main__":
    run(main)
