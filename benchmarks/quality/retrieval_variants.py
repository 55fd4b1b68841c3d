"""The rows of the retrieval tables: towers, losses, baselines, and the data sets they run on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from recsys.base.settings import merged
from recsys.benchmarks.harness.sources import Source, k_core, keep_ratings, with_month
from recsys.configs.file import recipe
from recsys.data.feature_spec import FeatureSpec
from recsys.data.reading.tables import Tables
from recsys.retrieval.towers.train import RetrievalConfig

Table = dict[str, Any]
MONTH = (FeatureSpec(name="month", side="context", after_event=True),)
TIME_SPLIT = ("data.split.kind=time", "data.split.valid=0.1", "data.split.test=0.1")
CLASSIC = ("popularity", "recent_popularity", "item_knn", "ease", "transition")
FACTORS = ("als", "bpr")


def _core(tables: Tables) -> Tables:
    return with_month(k_core(tables, 5))


def _rated(tables: Tables) -> Tables:
    return with_month(keep_ratings(tables, 3.0))


def _movielens(*overrides: str, edition: str = "", change: Any = with_month) -> Source:
    path = (f"data.path=../../shared/datasets/{edition}/{edition}.zip",) if edition else ()
    return Source("movielens-1m.toml", (*path, *overrides), change, MONTH)


SOURCES: dict[str, Source] = {
    "movielens": _movielens(),
    "movielens-5core": _movielens(change=_core),
    "movielens-time": _movielens(*TIME_SPLIT),
    "movielens-random": _movielens(
        "data.split.kind=random", "data.split.valid=0.1", "data.split.test=0.1", change=_rated
    ),
    "ml-100k": _movielens(edition="ml-100k"),
    "ml-100k-time": _movielens(*TIME_SPLIT, edition="ml-100k"),
    "ml-latest-small": _movielens(edition="ml-latest-small"),
    "ml-latest-small-time": _movielens(*TIME_SPLIT, edition="ml-latest-small"),
    "movielens-liked": _movielens("retrieval.positive=like"),
    "ml-100k-liked": _movielens("retrieval.positive=like", edition="ml-100k"),
    "kuairand-long": Source("kuairand.toml"),
    "kuairand-click": Source("kuairand.toml", ("retrieval.positive=click",)),
}
TITLES = {
    "movielens": "MovieLens-1M, leave-last-out: every rating an interaction, all 6,040 users",
    "movielens-5core": "MovieLens-1M, 5-core, leave-last-out",
    "movielens-time": "MovieLens-1M, global time split: the last tenth of all ratings tests",
    "movielens-random": "MovieLens-1M, ratings of 3 and more, random 8:1:1 per interaction",
    "ml-100k": "MovieLens-100K, leave-last-out",
    "ml-100k-time": "MovieLens-100K, global time split",
    "ml-latest-small": "MovieLens latest-small, leave-last-out",
    "ml-latest-small-time": "MovieLens latest-small, global time split",
    "movielens-liked": "MovieLens-1M, leave-last-out: ratings of 4 and 5 are the positives, the others are exposures",
    "ml-100k-liked": "MovieLens-100K, leave-last-out: ratings of 4 and 5 are the positives, the others are exposures",
    "kuairand-long": "KuaiRand-Pure, long views: 25 April - 3 May train, 4 - 5 May validate, 6 - 8 May test",
    "kuairand-click": "KuaiRand-Pure, clicks: 25 April - 3 May train, 4 - 5 May validate, 6 - 8 May test",
}


@dataclass(frozen=True)
class Variant:
    """One row.

    Attributes:
        group: heading in the table.
        about: what it is, in a line.
        table: changes of `[retrieval]`; empty for baselines.
        tower: variant whose towers it stands on, for retrained towers and whole funnels.
        retrained: the towers also learn from the validation part, for as many epochs.
        second: `select` (the listwise task alone) or `full` (the configured ranker and tasks); "" for no second stage.
        baseline: name of a baseline.
    """

    group: str
    about: str
    table: Table = field(default_factory=dict)
    tower: str = ""
    retrained: bool = False
    second: str = ""
    baseline: str = ""


def variants(smoke: bool = False) -> dict[str, Variant]:
    """All rows by name."""
    mean = {"tower": {"dim": 128, "history": {"encoder": "mean", "window": 20}}, "fit": {"epochs": 8}}
    small = {"tower": {"dim": 128, "dropout": 0.3, "user_hidden": [], "history": {"hidden": 128, "dropout": 0.3}}}
    small |= {"fit": {"epochs": 12}}
    large = {"tower": {"dim": 256, "dropout": 0.4, "user_hidden": [], "history": {"hidden": 256, "dropout": 0.4}}}
    large |= {"fit": {"epochs": 13}}
    ids = {"tower": {"item_features": "id", "event_features": []}}

    def encoder(base: Table, name: str, **keys: Any) -> Table:
        return merged(base, {"tower": {"history": {"encoder": name, **keys}}})

    group = "towers"
    found = {
        "dssm_ids": Variant(
            group, "mean of all history ids, ids only", merged(encoder(mean, "mean", window=None), ids)
        ),
        "dssm_ids_w20": Variant(group, "mean of the last 20 ids, ids only", merged(mean, ids)),
        "mean": Variant(group, "mean of the last 20, content and event features", mean),
        "decayed_mean": Variant(group, "means with learned decay rates", encoder(mean, "decayed_mean")),
        "decayed_mean_ahead": Variant(
            group,
            "the same, learning one of the next 200 events",
            merged(encoder(mean, "decayed_mean"), {"horizon": 200}),
        ),
        "transformer_ids": Variant(
            group, "causal transformer of 2 layers, ids only", merged(encoder(small, "transformer", layers=2), ids)
        ),
        "lstm_ids": Variant(group, "LSTM, ids only", merged(encoder(small, "lstm"), ids)),
        "lstm_small": Variant(group, "LSTM, width 128", encoder(small, "lstm")),
        "dupn": Variant(group, "DUPN: property-gated LSTM and attention, width 128", encoder(small, "dupn")),
        "transformer": Variant(
            group, "causal transformer of 2 layers, width 128", encoder(small, "transformer", layers=2)
        ),
        "lstm": Variant(group, "LSTM, width 256, content and event features", encoder(large, "lstm")),
        "lstm_long": Variant(group, "the same for 20 epochs", merged(encoder(large, "lstm"), {"fit": {"epochs": 20}})),
        "lstm_users": Variant(
            group, "with the user's own features", merged(encoder(large, "lstm"), {"tower": {"user_features": None}})
        ),
    }
    found |= _published(small)
    request = {"tower": {"event_features": ["gap", "stars", "month", "request_gap"]}}
    found["lstm_request"] = Variant(
        TOLD,
        "lstm, told the time between the last event and the request",
        merged(encoder(large, "lstm"), request),
    )
    found |= _classic(mean)
    gates: dict[str, Table] = {
        "field_gate": {"field_gate": {"kind": "vector"}},
        "bit_gate": {"field_gate": {"kind": "bit"}},
        "hidden_gate": {"hidden_gate": "tanh"},
    }
    for name, keys in gates.items():
        about = f"means with learned decay rates, GateNet's {name.replace('_', ' ')}"
        found[f"decayed_mean_{name}"] = Variant(group, about, merged(encoder(mean, "decayed_mean"), {"tower": keys}))
    group = "losses (mean of the last 20)"
    for loss in ("in_batch", "mixed", "sampled", "bce"):
        found[f"mean_{loss}"] = Variant(group, f"loss: {loss}", merged(mean, {"loss": loss}))
    memory = {"loss": "in_batch", "memory": 8192}
    found["mean_in_batch_memory"] = Variant(group, "loss: in_batch and 8,192 of earlier batches", merged(mean, memory))
    found["mean_hard"] = Variant(group, "full softmax and 16 hard negatives", merged(mean, {"hard_negatives": 16}))
    mixed_hard = {"loss": "mixed", "hard_negatives": 16}
    found["mean_mixed_hard"] = Variant(group, "loss: mixed and 16 hard negatives", merged(mean, mixed_hard))
    found["mean_interests"] = Variant(group, "4 user vectors", merged(mean, {"tower": {"interests": 4}}))
    cosine = {"tower": {"similarity": "cosine"}}
    found["mean_cosine"] = Variant(group, "full softmax of cosines with a learned temperature", merged(mean, cosine))
    for name in ("decayed_mean", "lstm"):
        about = "retrained with the validation part, as many epochs"
        found[f"{name}+valid"] = Variant("retrained", about, tower=name, retrained=True)
    for name in ("mean", "decayed_mean", "decayed_mean_ahead", "lstm", "lstm_request"):
        for second, words in (("select", "listwise task alone"), ("full", "configured ranker and tasks")):
            title = f"funnel_{second}_{name}"
            group = TOLD if name == "lstm_request" else "whole funnel"
            found[title] = Variant(group, f"{words} over {name}", tower=name, second=second)
    about = "listwise task alone over lstm, towers retrained with the validation part"
    found["funnel_select_lstm+valid"] = Variant("whole funnel", about, tower="lstm", retrained=True, second="select")
    for name in (*CLASSIC, *FACTORS):
        found[name] = Variant("baselines", name.replace("_", " "), baseline=name)
    if smoke:
        found = {name: _smoked(variant) for name, variant in found.items()}
    return found


TOLD = "the time of the request is known (another protocol)"
"""Rows of it are in a table of their own, beside which no published figure stands."""
PUBLISHED = {
    "sasrec": "SASRec",
    "gsasrec": "gSASRec",
    "esasrec": "eSASRec",
    "gru4rec": "GRU4Rec",
    "bert4rec": "BERT4Rec",
    "hstu": "HSTU",
}
CAP = 30
"""Epochs of a published recipe at most, here; the recipes themselves train longer."""


def _published(ours: Table) -> dict[str, Variant]:
    """Sequence models by their names: as published, as encoders of our training, and SASRec part by part."""
    found = {}
    for name, title in PUBLISHED.items():
        table = recipe(name)["retrieval"]
        epochs = min(CAP, table["fit"]["epochs"])
        capped = merged(table, {"tower": {"item_features": "id"}, "fit": {"epochs": epochs}})
        found[name] = Variant("published sequence models", f"{title}'s recipe, at most {epochs} epochs", capped)
    group = "the same encoders in our training, width 128"
    for name, title in PUBLISHED.items():
        if name != "gsasrec":  # whose encoder is SASRec's
            history = {"encoder": name, "layers": 1 if name == "gru4rec" else 2}
            table = merged(ours, {"tower": {"history": history}})
            found[f"{name}_ours"] = Variant(group, f"{title}, full softmax, content and event features", table)
    base = merged(recipe("sasrec")["retrieval"], {"tower": {"item_features": "id"}, "fit": {"epochs": CAP}})
    width = {"tower": {"dim": 128, "history": {"hidden": 128}}}
    softmax = merged(base, {"loss": "full_softmax"})
    wide = merged(softmax, width)
    optim = {"optim": ours_optim(), "fit": {"epochs": 12, "patience": 0}, "tokens": 3200}
    parts = {
        "sasrec_softmax": ("loss: full softmax", softmax),
        "sasrec_wide": ("and width 128", wide),
        "sasrec_wide_dropout": ("and dropout 0.4", merged(wide, {"tower": {"history": {"dropout": 0.4}}})),
        "sasrec_wide_short": (
            "width 128, the last 50 events",
            merged(wide, {"tower": {"history": {"max_length": 50}}}),
        ),
        "sasrec_wide_rate": ("width 128, our optimiser: 12 epochs of small steps, cosine", merged(wide, optim)),
        "sasrec_wide_untied": (
            "and our output layer and item bias",
            merged(wide, merged(optim, {"tower": {"user_output": True, "item_bias": True}})),
        ),
    }
    group = "SASRec's recipe, part by part (ids only)"
    return found | {name: Variant(group, about, table) for name, (about, table) in parts.items()}


def ours_optim() -> Table:
    """Our optimiser of the towers, every key said."""
    return dict(RetrievalConfig().optim.model_dump(mode="json"))


def _classic(mean: Table) -> dict[str, Variant]:
    """DSSM as published, part by part: a network on each side, its activation, cosine, and training on exposures."""
    group = "the classic DSSM, part by part (mean of the last 20)"
    network: Table = {"tower": {"item_hidden": [128]}}
    tanh = merged(network, {"tower": {"activation": "tanh", "dropout": 0.0}})
    cosine: Table = {"tower": {"similarity": "cosine"}}
    exposures: Table = {"loss": "exposures"}
    parts = {
        "mean_item_network": ("a network on the item side too", network),
        "mean_item_network_tanh": ("the same, tanh instead of ReLU and no dropout", tanh),
        "mean_item_network_cosine": ("a network on each side, cosine with a learned scale", merged(network, cosine)),
        "mean_exposures": ("trained on exposures, no item network", exposures),
        "dssm": ("a network on each side, tanh, cosine, trained on exposures", merged(merged(tanh, cosine), exposures)),
        "dssm_relu": ("the same, ReLU and dropout", merged(merged(network, cosine), exposures)),
        "dssm_dot": ("dssm with the product of free vectors instead of cosine", merged(tanh, exposures)),
        "dssm_softmax": ("dssm trained by the softmax over the catalogue", merged(tanh, cosine)),
    }
    return {name: Variant(group, about, merged(mean, table)) for name, (about, table) in parts.items()}


def _smoked(variant: Variant) -> Variant:
    tiny = {"tower": {"dim": 16, "history": {"hidden": 16}}, "fit": {"epochs": 1}}
    return replace(variant, table=merged(variant.table, tiny) if variant.table else {})


def retrieval_config(table: Table, base: RetrievalConfig, features: set[str], item_id: str) -> RetrievalConfig:
    """`[retrieval]` of a row.

    Args:
        table: see `Variant.table`; `item_features = "id"` stands for the id alone.
        base: the configured section: positives, content columns, candidates.
        features: features the data declares; event features it lacks are left out.
        item_id: name of the item id's feature.
    """
    wanted = merged({"tower": {"user_features": [], "event_features": ["gap", "stars", "month"]}}, table)
    tower = dict(wanted["tower"])
    own = ("gap", "request_gap")
    tower["event_features"] = [name for name in tower["event_features"] if name in own or name in features]
    if tower.get("item_features") == "id":
        tower["item_features"] = [item_id]
    elif base.tower.item_features is not None:
        tower["item_features"] = list(base.tower.item_features)
    fit = {"metric": "ndcg@10", "patience": 0, **wanted.get("fit", {})}
    kept = {"positive": base.positive, "num_candidates": base.num_candidates}
    return RetrievalConfig.model_validate({**kept, **wanted, "tower": tower, "fit": fit})
