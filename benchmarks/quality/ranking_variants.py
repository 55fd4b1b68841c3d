"""The rows of the ranking tables: what each variant changes, and the widths that make them equally large.

All networks read the same inputs with the same recipe. What differs is the part between input and towers, and it is
sized so that every variant has about as many dense parameters as the shared bottom: `fit_width` searches the width of
the trunk or of the experts. Where one width cannot do it (several whole networks, a gate as large as the network), the
table shows the count as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recsys.base.settings import merged
from recsys.data.batch import Layout
from recsys.data.schema import TaskSpec
from recsys.ranking.config import RankingConfig
from recsys.ranking.ranker import Ranker, build_ranker

Table = dict[str, Any]
Model = Callable[[int, Sequence[str]], Table]
"""(width, tasks) -> keys of `[ranking.model]`."""
WIDTHS = (4, 1024)
BASELINE = "single_task"
BASE = "shared_bottom"
"""What gates and histories change one thing in."""
GEMNN: Table = {"joint_gate": {"enabled": True}}
"""The gate that ships."""


@dataclass(frozen=True)
class Recipe:
    """What all variants of a data set share; measured beforehand and not tuned here.

    Attributes:
        input: `[ranking.model.input]`.
        train: `[ranking]` without model and balance.
        width: of the shared bottom, which sets the size of all others.
        tower: widths of the towers.
        dropout: after every hidden layer.
        rare: tasks whose weight the weight variants raise.
    """

    input: Table
    train: Table
    width: int = 256
    tower: tuple[int, ...] = (32,)
    dropout: float = 0.2
    rare: tuple[str, ...] = ()


@dataclass(frozen=True)
class Variant:
    """One row.

    Attributes:
        group: heading in the table.
        about: what it is, in a line.
        model: see `Model`.
        input: changes of the recipe's inputs.
        keys: changes of the model's other shared keys (dropout, hidden gate).
        balance: kind and dials.
        raised: factor on the weight of the rare tasks.
        matched: whether the width is searched; otherwise it is the recipe's.
        copies: input layers, 0 for one per task (and a shared one); divides the rank of the cross layers.
        warm: begin with the embeddings of a retriever trained on the same rows.
        distil: share in the training labels of what the single-task models of `versus` predict, all seeds together.
        train: changes of the recipe's training.
        versus: row that differences are taken from.
        needs: `history`, `rare` or `clicks`: what the data must have.
    """

    group: str
    about: str
    model: Model
    input: Table = field(default_factory=dict)
    keys: Table = field(default_factory=dict)
    balance: Table = field(default_factory=dict)
    raised: float = 1.0
    matched: bool = True
    copies: int = 1
    warm: bool = False
    distil: float = 0.0
    train: Table = field(default_factory=dict)
    versus: str = BASELINE
    needs: str = ""


def bottom(width: int, tasks: Sequence[str]) -> Table:
    """Shared bottom of one layer."""
    return {"kind": "shared_bottom", "bottom_hidden": [width]}


def single(width: int, tasks: Sequence[str]) -> Table:
    """A whole network for every task."""
    return {"kind": "single_task", "hidden": [width]}


def moe(width: int, tasks: Sequence[str]) -> Table:
    """Four experts, one gate."""
    return {"kind": "moe", "num_experts": 4, "expert_hidden": [width]}


def mmoe(width: int, tasks: Sequence[str]) -> Table:
    """Four experts, a gate per task."""
    return {"kind": "mmoe", "num_experts": 4, "expert_hidden": [width]}


def cgc(width: int, tasks: Sequence[str]) -> Table:
    """Two shared experts and one per task."""
    return {"kind": "cgc", "task_experts": 1, "shared_experts": 2, "expert_hidden": [width]}


def trunks(width: int, tasks: Sequence[str]) -> Table:
    """A trunk per task on shared tables: CGC without shared experts."""
    return {"kind": "cgc", "task_experts": 1, "shared_experts": 0, "expert_hidden": [width]}


def ple(width: int, tasks: Sequence[str]) -> Table:
    """Two levels of two shared experts and one per task."""
    level = {"task_experts": 1, "shared_experts": 2}
    return {"kind": "ple", "levels": [level, level], "expert_hidden": [width]}


def stem(width: int, tasks: Sequence[str]) -> Table:
    """One expert per task on its own table, one on the shared one."""
    return {"kind": "stem", "task_experts": 1, "shared_experts": 1, "expert_hidden": [width]}


def home(width: int, tasks: Sequence[str]) -> Table:
    """One shared expert, one per group and one per task on two levels; watching apart from reacting."""
    watching = [task for task in tasks if task in ("click", "long_view")]
    groups = {"watch": watching} if 0 < len(watching) < len(tasks) else {}
    counts = {"shared_experts": 1, "group_experts": 1, "task_experts": 1}
    return {"kind": "home", "groups": groups, **counts, "expert_hidden": [width]}


def aitm(width: int, tasks: Sequence[str]) -> Table:
    """Trunks of two layers with transfers, in the order of the tasks; none implies another, hence no calibrator."""
    return {"kind": "aitm", "tower_hidden": [width, 32], "calibrator": 0.0}


def dupn(width: int, tasks: Sequence[str]) -> Table:
    """One user vector from the history for all tasks."""
    history = {"encoder": "dupn", "hidden": 32, "attention_hidden": 32}
    return {"kind": "dupn", "input": {"history": history}, "profile_hidden": [width], "tower_hidden": [64, 32]}


def meituan(width: int, tasks: Sequence[str]) -> Table:
    """Shared layers to the last, one linear head per task."""
    return {"kind": "meituan", "hidden": [width, 32]}


def esmm(width: int, tasks: Sequence[str]) -> Table:
    """Click and long view given the click; their product is the long view."""
    names = {"click": "click", "conversion": "long_given_click", "product": "long_view"}
    return {"kind": "esmm", **names, "ctr_hidden": [width, 32], "tower_hidden": [width, 32]}


def architectures() -> dict[str, Variant]:
    """One network a row, all of equal size but where the row says otherwise."""
    group = "architectures"
    return {
        "single_task": Variant(
            group, "one whole network per task, each as wide as the shared bottom", single, matched=False
        ),
        "single_task_equal": Variant(
            group, "the same, all networks together as large as the shared bottom", single, copies=0
        ),
        "separate_trunks": Variant(group, "shared tables, a trunk per task", trunks),
        "shared_bottom": Variant(group, "one trunk for all tasks", bottom, matched=False),
        "moe": Variant(group, "4 experts, one gate (OMoE)", moe),
        "mmoe": Variant(group, "4 experts, a gate per task", mmoe),
        "cgc": Variant(group, "2 shared experts and 1 per task", cgc),
        "ple": Variant(group, "two levels of CGC", ple),
        "aitm": Variant(group, "trunks in a row with transfers", aitm),
        "stem": Variant(group, "a table per task beside a shared one, gradients stopped between tasks", stem, copies=0),
        "home": Variant(group, "groups of tasks on two levels, feature gates and self gates", home),
        "meituan": Variant(group, "tasks part at the last layer", meituan),
        "esmm": Variant(group, "long view = click x long view given click", esmm, needs="clicks"),
        "dupn": Variant(group, "DUPN: one user vector for all tasks", dupn, needs="history"),
        **_attention(),
    }


def _attention() -> dict[str, Variant]:
    """DUPN without the user in its attention, and with a layer norm before its LSTM."""
    group = "DUPN, part by part"
    alone: Table = {"history": {"user_in_attention": False}}
    normed: Table = {"history": {"event_norm": True}}
    about = "DUPN, events normalised before the LSTM"
    return {
        "dupn_no_user": Variant(
            group, "DUPN, attention that sees the history alone", dupn, input=alone, versus="dupn", needs="history"
        ),
        "dupn_norm": Variant(group, about, dupn, input=normed, versus="dupn", needs="history"),
    }


def _weights() -> dict[str, Variant]:
    group, found = "task weights", {}
    kinds = {"shared_bottom": bottom, "mmoe": mmoe, "cgc": cgc, "ple": ple, "separate_trunks": trunks}
    for factor in (2.5, 5.0):
        for name, model in kinds.items():
            about = f"rare tasks weigh {factor:g}"
            matched = name != "shared_bottom"
            found[f"{name}_w{factor:g}"] = Variant(group, about, model, raised=factor, matched=matched, needs="rare")
    found["stem_w5"] = Variant(group, "rare tasks weigh 5", stem, raised=5.0, copies=0, needs="rare")
    return found


def _cures() -> dict[str, Variant]:
    """Arrangements against the see-saw that are no architecture."""
    group, found = "balances and distillation", {}
    for kind in ("uncertainty", "gradnorm", "pcgrad", "cagrad"):
        found[f"shared_bottom_{kind}"] = Variant(
            group, f"{kind} balance", bottom, balance={"kind": kind}, matched=False
        )
        found[f"ple_{kind}"] = Variant(group, f"{kind} balance", ple, balance={"kind": kind})
    found["shared_bottom_metabalance"] = Variant(
        group,
        "MetaBalance towards the click",
        bottom,
        balance={"kind": "metabalance", "target": "click"},
        matched=False,
        needs="rare",
    )
    for key, value in {"focal": 2.0, "difficulty": 1.0}.items():
        loss: Table = {"loss": {key: value}}
        about = {"focal": "focal loss, exponent 2", "difficulty": "SuperLoss, difficulty 1"}[key]
        found[f"shared_bottom_{key}"] = Variant(group, about, bottom, matched=False, train=loss)
    about = "training labels half what the single-task models of all seeds predict together"
    found["shared_bottom_distilled"] = Variant(group, about, bottom, matched=False, distil=0.5)
    gated = about + ", GemNN's gate"
    found["shared_bottom_gemnn_distilled"] = Variant(group, gated, bottom, input=GEMNN, matched=False, distil=0.5)
    found["separate_trunks_distilled"] = Variant(group, about, trunks, distil=0.5)
    found["separate_trunks_gemnn_distilled"] = Variant(group, gated, trunks, input=GEMNN, matched=False, distil=0.5)
    found["ple_distilled"] = Variant(group, about, ple, distil=0.5)
    found["shared_bottom_distilled_w2.5"] = Variant(
        group, about + ", rare tasks weigh 2.5", bottom, matched=False, distil=0.5, raised=2.5, needs="rare"
    )
    found["shared_bottom_taught"] = Variant(
        group, about.replace("half", "nothing but"), bottom, matched=False, distil=1.0
    )
    return found


def _of_trees() -> dict[str, Variant]:
    """Networks that boosted trees teach (`ranking.distil.by = "trees"`), grown as the LightGBM row of Census-Income."""
    grown = {"columns": 0.3, "sample": 0.9, "l2": 10.0}
    train = {"distil": {"share": 0.9, "by": "trees", "teachers": 1}, "trees": grown, "fit": {"epochs": 6}}
    about = "training labels nine tenths what boosted trees say of rows they did not grow on, six epochs"
    group = "balances and distillation"
    return {
        "shared_bottom_of_trees": Variant(group, about, bottom, matched=False, train=train),
        "separate_trunks_of_trees": Variant(group, about, trunks, train=train),
        "separate_trunks_gemnn_of_trees": Variant(group, about + ", GemNN's gate", trunks, input=GEMNN, train=train),
    }


def _long() -> dict[str, Variant]:
    """What a further epoch does to the shared bottom, its teachers and their student, where two are the recipe."""
    return {**_with_students("three epochs"), **_with_students("three epochs, GemNN's gate", "gemnn_", GEMNN)}


def _with_students(group: str, mark: str = "", inputs: Table | None = None) -> dict[str, Variant]:
    """Three epochs on some inputs: single-task models, shared bottom, and the shared bottom that they teach."""
    versus = f"single_task_{mark}long"
    shared: Table = {
        "input": inputs or {},
        "train": {"fit": {"epochs": 3}},
        "matched": False,
        "versus": versus,
        "needs": "rare",
    }
    about = "labels half what the single-task models of this table predict together"
    return {
        versus: Variant(group, "one whole network per task", single, **shared),
        f"shared_bottom_{mark}long": Variant(group, "one trunk for all tasks", bottom, **shared),
        f"shared_bottom_{mark}distilled_long": Variant(group, about, bottom, distil=0.5, **shared),
    }


def networks() -> dict[str, Variant]:
    """Architectures, weights, balances and longer trainings, by name."""
    return {**architectures(), **_weights(), **_cures(), **_of_trees(), **_long()}


def ranking_config(variant: Variant, recipe: Recipe, tasks: Sequence[str], width: int) -> RankingConfig:
    """The `[ranking]` section of a variant at a width."""
    inputs = merged(recipe.input, variant.input)
    copies = variant.copies or (len(tasks) if variant.model is single else len(tasks) + 1)
    if copies > 1 and inputs.get("cross_layers"):
        inputs["cross_rank"] = max(1, inputs["cross_rank"] // copies)
    shared = {"input": inputs, "tower_hidden": list(recipe.tower), "dropout": recipe.dropout, **variant.keys}
    model = merged(shared, variant.model(width, tasks))
    if model["kind"] == "dupn":
        model["input"] = {**model["input"], "cross_layers": 0}
    balance = dict(variant.balance)
    if variant.raised != 1.0:
        balance["weights"] = dict.fromkeys(recipe.rare, variant.raised)
    table = {**merged(recipe.train, variant.train), "model": model, "balance": balance, "warm_start": False}
    return RankingConfig.model_validate({**table, "select": {"enabled": False}, "calibration": {"kind": "none"}})


def dense_parameters(ranker: Ranker) -> int:
    """Parameters outside the embedding tables."""
    return sum(p.numel() for p in ranker.parameters()) - sum(t.weight.numel() for t in ranker.tables())


def fit_width(variant: Variant, recipe: Recipe, layout: Layout, tasks: tuple[TaskSpec, ...]) -> tuple[int, int]:
    """Width of the variant whose dense parameters come nearest to the shared bottom's, and their number."""
    names = [task.name for task in tasks]

    def count(one: Variant, width: int) -> int:
        return dense_parameters(build_ranker(ranking_config(one, recipe, names, width).model, layout, tasks, 0))

    if not variant.matched:
        return recipe.width, count(variant, recipe.width)
    target = count(architectures()["shared_bottom"], recipe.width)
    low, high = WIDTHS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(variant, middle) <= target else (low, middle)
    sizes = {width: count(variant, width) for width in (low, high)}
    best = min(sizes, key=lambda width: abs(sizes[width] - target))
    return best, sizes[best]


RECIPES: Mapping[str, Recipe] = {
    "census": Recipe(
        input={"embedding_dim": 16, "cross_layers": 3, "cross_rank": 32},
        train={
            "batch_size": 1024,
            "optim": {
                "lr": 3e-3,
                "warmup_steps": 50,
                "schedule": "cosine",
                "final_fraction": 0.02,
                "weight_decay": 1e-5,
                "table_weight_decay": 0.03,
            },
            "fit": {"epochs": 4, "metric": "auc", "patience": 0},
        },
    ),
    "kuairand": Recipe(
        input={"embedding_dim": 8},
        train={
            "batch_size": 1024,
            "optim": {"lr": 2e-3, "warmup_steps": 50, "schedule": "cosine", "final_fraction": 0.02},
            "fit": {"epochs": 2, "metric": "auc", "patience": 0},
        },
        rare=("like", "profile_enter"),
    ),
}
