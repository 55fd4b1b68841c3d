"""What a ranker reads, part by part: gates, histories, interactions; and every variant of the tables by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from recsys.benchmarks.quality.ranking_variants import (
    BASE,
    Recipe,
    Table,
    Variant,
    bottom,
    networks,
)


def _gates() -> dict[str, Variant]:
    group, found = "gates", {}
    fields = [("vector", "private", act) for act in ("sigmoid", "tanh", "linear", "relu")]
    fields += [("vector", "shared", "sigmoid"), ("bit", "private", "sigmoid"), ("bit", "shared", "sigmoid")]
    for kind, sharing, act in fields:
        inputs: Table = {"field_gate": {"kind": kind, "sharing": sharing, "activation": act}}
        about = f"GateNet: {kind}-wise, field-{sharing}, {act}"
        found[f"field_{kind}_{sharing}_{act}"] = Variant(group, about, bottom, input=inputs)
    # A linear gate of an embedding that starts at 0.05 is its square, all but 0: does the order of the activations hold
    # where embeddings start ten times larger?
    found["wide"] = Variant(group, "embeddings start ten times larger", bottom, input={"init_std": 0.5}, matched=False)
    for act in ("sigmoid", "tanh", "linear"):
        inputs = {"field_gate": {"kind": "vector", "activation": act}, "init_std": 0.5}
        about = f"GateNet: vector-wise, field-private, {act}; embeddings start ten times larger"
        found[f"wide_{act}"] = Variant(group, about, bottom, input=inputs)
    for act in ("tanh", "linear", "sigmoid"):
        about = f"GateNet: gate after every hidden layer, {act}"
        found[f"hidden_{act}"] = Variant(group, about, bottom, keys={"hidden_gate": act})
    about = "GateNet: both at their defaults (vector-wise, field-private, sigmoid; hidden tanh)"
    inputs = {"field_gate": {"kind": "vector", "sharing": "private", "activation": "sigmoid"}}
    found["field_and_hidden"] = Variant(group, about, bottom, input=inputs, keys={"hidden_gate": "tanh"})
    joint: dict[str, Table] = {"full": {}, "full_scale2": {"scale": 2.0}, "full_linear": {"activation": "linear"}}
    joint |= {"rank32": {"rank": 32}, "rank32_scale2": {"rank": 32, "scale": 2.0}}
    for name, keys in joint.items():
        about = f"GemNN: gate on the concatenated embeddings, {name.replace('_', ', ')}"
        inputs = {"joint_gate": {"enabled": True, **keys}}
        found[f"gemnn_{name}"] = Variant(group, about, bottom, input=inputs, matched=bool(keys.get("rank")))  # D x D
    found["warm_start"] = Variant(
        group, "embeddings start from the retriever's", bottom, matched=False, warm=True, needs="history"
    )
    for name, gate in (("gemnn_warm", {"rank": 32, "scale": 2.0}), ("gemnn_full_warm", {})):
        size = "rank 32, scale 2" if gate else "full"
        about = f"GemNN: gate ({size}) and embeddings from the retriever"
        inputs = {"joint_gate": {"enabled": True, **gate}}
        found[name] = Variant(group, about, bottom, input=inputs, warm=True, matched=bool(gate), needs="history")
    return found


def _histories() -> dict[str, Variant]:
    found = {}
    for encoder in ("decayed_mean", "lstm", "dupn", "transformer"):
        history = {"history": {"encoder": encoder, "hidden": 32, "attention_hidden": 32}}
        about = f"histories through {encoder} instead of the mean"
        found[f"history_{encoder}"] = Variant("histories", about, bottom, input=history, needs="history")
    units: dict[str, Table] = {"din": {}, "din_normalised": {"normalise": True}, "dot": {}}
    for name, keys in units.items():
        target = {"target": {"unit": name.split("_")[0], **keys}}
        about = f"target attention beside the mean of the history: {name.replace('_', ', ')}"
        found[f"target_{name}"] = Variant("histories", about, bottom, input=target, needs="history")
    return found


def _interactions() -> dict[str, Variant]:
    """Interaction layers beside the fields, and a linear model under everything."""
    group, found = "interactions", {}
    about = {
        "fm": "sums of products of pairs (DeepFM's)",
        "dlrm": "the product of every pair (DLRM)",
        "autoint": "self-attention over fields (AutoInt)",
        "masknet": "two mask blocks (MaskNet)",
    }
    # At the usual widths these two alone are larger than the whole shared bottom.
    narrow: dict[str, Table] = {"masknet": {"ratio": 0.05}, "autoint": {"width": 8}}
    for kind, what in about.items():
        keys = narrow.get(kind, {})
        found[f"interaction_{kind}"] = Variant(group, what, bottom, input={"interaction": {"kind": kind, **keys}})
    cross: Table = {"cross_layers": 2, "cross_rank": 32}
    found["interaction_cross"] = Variant(group, "two cross layers of rank 32 (DCN-V2)", bottom, input=cross)
    return found


def _logistic(width: int, tasks: Sequence[str]) -> Table:
    return {"kind": "logistic", "input": {"embedding_dim": 1, "cross_layers": 0}, "tower_hidden": []}


def variants(recipe: Recipe, tasks: Sequence[str], has_history: bool) -> dict[str, Variant]:
    """The variants that the data can express, by name."""
    offered = {
        "history": has_history,
        "rare": bool(recipe.rare),
        "clicks": {"click", "long_view"} <= set(tasks),
        "": True,
    }
    inputs = {**_gates(), **_histories(), **_interactions()}
    ablations = {name: replace(one, versus=BASE) for name, one in inputs.items()}
    ablations["logistic"] = Variant("architectures", "a linear model for every task", _logistic, matched=False)
    every = {**networks(), **ablations}
    return {name: variant for name, variant in every.items() if offered[variant.needs]}
