"""Everything that can be named in a configuration, with its paper and one line: what `recsys models` prints.

Paper and summary are read from the classes and functions themselves; what stands here is how each is switched on.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..base.cited import paper_of, summary_of
from ..base.errors import ConfigError
from ..base.extensions import is_ours, load_installed, origin
from ..base.settings import Settings

Entry = dict[str, str]
Table = Mapping[str, Any]
ENTRY = ("kind", "name", "paper", "summary", "origin")


@dataclass(frozen=True, kw_only=True)
class Model:
    """One row of the list.

    Attributes:
        kind: retriever, history encoder, target attention, ranker, gate, interaction, loss, balance, data source, or a
            system of several of them.
        name: how a configuration, or a person, calls it.
        paper: its source.
        summary: one line.
        code: the class or function that computes it.
        settings: what a configuration says to have it; tables in tables.
        keys: dotted section -> the class of its keys, or that class and the names among them that matter here.
    """

    kind: str
    name: str
    paper: str
    summary: str
    code: Any
    settings: Table
    keys: Mapping[str, tuple[type[Settings], tuple[str, ...]]]

    @classmethod
    def of(
        cls,
        kind: str,
        name: str,
        code: Any,
        settings: Table,
        *keys: tuple[str, type[Settings], tuple[str, ...]],
        summary: str = "",
        paper: str = "",
    ) -> Model:
        """A row whose paper and summary are those of its code, unless others are given."""
        said = summary or summary_of(code)
        return cls(
            kind=kind,
            name=name,
            paper=paper or paper_of(code),
            summary=said,
            code=code,
            settings=settings,
            keys={at: (of, names) for at, of, names in keys},
        )

    @property
    def origin(self) -> str:
        """Module of the extension that adds it; empty for what the library has itself."""
        return "" if is_ours(self.code) else origin(self.code)

    @property
    def entry(self) -> Entry:
        """The row as `recsys models --json` prints it."""
        return {name: str(getattr(self, name)) for name in ENTRY}


def catalogue() -> list[Entry]:
    """`{"kind", "name", "paper", "summary", "origin"}` of every retriever, encoder, ranker, gate, loss, balance, source
    and system.
    """
    return [model.entry for model in models()]


def models() -> list[Model]:
    """Every row of the list, what installed extensions add among them."""
    load_installed()
    networks = [*_encoders(), *_rankers(), *_gates(), *_interactions()]
    return [*_retrievers(), *networks, *_losses(), *_balances(), *_sources(), *_systems()]


def named(name: str) -> list[Model]:
    """The rows of that name; large and small letters, spaces, hyphens and underscores are the same.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    rows = models()
    found = [row for row in rows if _plain(row.name) == _plain(name)]
    if not found:
        known = {_plain(row.name): row.name for row in rows}
        alike = difflib.get_close_matches(_plain(name), known, n=1, cutoff=0.5)
        hint = f'did you mean "{known[alike[0]]}"?' if alike else "`recsys models` lists the names"
        raise ConfigError(f'nothing is called "{name}"; {hint}')
    return found


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).lower()


def _nested(path: str, value: object) -> dict[str, Any]:
    """`a.b` and a value as tables in tables."""
    first, _, rest = path.partition(".")
    return {first: _nested(rest, value) if rest else value}


def _retrievers() -> Iterator[Model]:
    from ..retrieval.baselines import BASELINES
    from ..retrieval.towers.two_tower import TwoTower, TwoTowerConfig

    tower = "retrieval.tower"
    names = tuple(name for name in TwoTowerConfig.model_fields if name not in ("history", "hidden_gate"))
    yield Model.of("retriever", "two_tower", TwoTower, _nested(tower, {"dim": 32}), (tower, TwoTowerConfig, names))
    for name, baseline in BASELINES.entries().items():
        settings = {"retrieval": {"proposers": ["two_tower", name]}}
        options = (f"retrieval.baseline_options.{name}", baseline.settings_class, ())
        yield Model.of("retriever", name, baseline, settings, options)


def _encoders() -> Iterator[Model]:
    from ..configs.file import recipe, recipe_names
    from ..nn.sequence import ENCODERS, SequenceConfig

    at, published = "retrieval.tower.history", recipe_names()
    for name, encoder in ENCODERS.entries().items():
        keys = (at, SequenceConfig, ()), (f"{at}.options", encoder.Options, ())
        settings = recipe(name) if name in published else _nested(at, {"encoder": name})
        yield Model.of("history encoder", name, encoder, settings, *keys)
    from ..nn.target import ActivationUnit, TargetAttention, TargetConfig

    at = "ranking.model.input.target"
    units = {"din": "weights of events by how they meet the candidate", "dot": "the same by scaled products, softmax"}
    for name, about in units.items():
        settings = _nested(at, {"unit": name})
        yield Model.of("target attention", name, ActivationUnit, settings, (at, TargetConfig, ()), summary=about)
    searches = {
        "match": "the last events that share a value with the candidate",
        "hash": "the nearest events by hashes",
    }
    for name, about in searches.items():
        settings = _nested(at, {"unit": "din", "search": name})
        yield Model.of("target attention", name, TargetAttention, settings, (at, TargetConfig, ()), summary=about)


def _rankers() -> Iterator[Model]:
    from ..ranking.ranker import ranker_kinds

    at = "ranking.model"
    for name, ranker in ranker_kinds().items():
        names = tuple(key for key in ranker.Config.model_fields if key not in ("kind", "input"))
        yield Model.of("ranker", name, ranker, _nested(at, {"kind": name}), (at, ranker.Config, names))
    from ..ranking.trees.forest import Forest
    from ..ranking.trees.settings import BesideConfig, TreeSettings

    keys = tuple(TreeSettings.model_fields)
    beside = ("ranking.trees", BesideConfig, ("enabled",))
    yield Model.of("ranker", "trees", Forest, _nested(at, {"kind": "trees"}), (at, Forest.Config, keys), beside)


def _gates() -> Iterator[Model]:
    from ..nn.activation import HiddenGate
    from ..nn.gates import FieldGate, FieldGateConfig, JointGate, JointGateConfig
    from ..ranking.ranker import RankerConfig

    field, joint = "ranking.model.input.field_gate", "ranking.model.input.joint_gate"
    for kind, one in (("vector", "one gate per field"), ("bit", "one gate per coordinate")):
        about = f"{one}, computed from {'that' if kind == 'vector' else 'its'} field's embedding"
        settings = _nested(field, {"kind": kind})
        yield Model.of("gate", f"field_gate {kind}", FieldGate, settings, (field, FieldGateConfig, ()), summary=about)
    hidden = ("ranking.model", RankerConfig, ("hidden_gate",))
    yield Model.of("gate", "hidden_gate", HiddenGate, _nested("ranking.model.hidden_gate", "tanh"), hidden)
    yield Model.of("gate", "joint_gate", JointGate, _nested(joint, {"enabled": True}), (joint, JointGateConfig, ()))


def _interactions() -> Iterator[Model]:
    from ..nn.cross import CrossNetwork
    from ..nn.inputs import InputConfig
    from ..nn.interaction import INTERACTIONS, InteractionConfig

    at = "ranking.model.input.interaction"
    for name, block in INTERACTIONS.entries().items():
        yield Model.of("interaction", name, block, _nested(at, {"kind": name}), (at, InteractionConfig, ()))
    keys = ("ranking.model.input", InputConfig, ("cross_layers", "cross_rank"))
    settings = _nested("ranking.model.input.cross_layers", 2)
    yield Model.of("interaction", "cross_layers", CrossNetwork, settings, keys)


def _losses() -> Iterator[Model]:
    from ..ranking import losses as ranking
    from ..ranking.requests import SelectConfig
    from ..retrieval.towers.objective import LOSSES, TowerLossConfig

    for name, loss in LOSSES.entries().items():
        settings = {"retrieval": {"loss": name, **({"positive": "click"} if loss.exposures else {})}}
        keys = ("retrieval", TowerLossConfig, ()), ("retrieval.loss_options", loss.Options, ())
        code = (loss.formula if is_ours(loss) else None) or loss
        yield Model.of("retrieval loss", name, code, settings, *keys)
    mean = _nested("ranking.loss.reduction", "weighted_mean")
    yield Model.of("ranking loss", "task", ranking.task_loss, mean, ("ranking.loss", ranking.LossConfig, ()))
    select = _nested("ranking.select.enabled", True)
    yield Model.of("ranking loss", "select", ranking.listwise_loss, select, ("ranking.select", SelectConfig, ()))


def _balances() -> Iterator[Model]:
    from ..ranking.balance import BalanceConfig, balance_kinds

    at = "ranking.balance"
    for name, balance in balance_kinds().items():
        keys = (at, BalanceConfig, ()), (f"{at}.options", balance.Options, ())
        yield Model.of("balance", name, balance, _nested(at, {"kind": name}), *keys)


def _sources() -> Iterator[Model]:
    from ..data.reading.sources import SOURCES, official

    for name, reader in SOURCES.entries().items():
        settings = {"data": {"source": name, "path": "PATH"}}
        yield Model.of("data source", name, reader, settings, paper=official(name))


def _systems() -> Iterator[Model]:
    """Names that people look for, where the configuration calls the thing otherwise."""
    from ..configs.file import recipe
    from ..data.encoding.numeric import equal_frequency
    from ..data.schema import DataConfig
    from ..nn.gates import FieldGate, FieldGateConfig, JointGate, JointGateConfig
    from ..nn.numeric import MissingValue
    from ..ranking.config import RankingConfig
    from ..ranking.losses import LossConfig, symmetric_kl, task_loss
    from ..ranking.ranker import RankerConfig
    from ..retrieval.towers.losses import gbce_loss
    from ..retrieval.towers.objective import TowerLossConfig
    from ..retrieval.towers.two_tower import TwoTower, TwoTowerConfig

    keys = ("retrieval", TowerLossConfig, ("loss", "negatives", "calibration"))
    about = "sasrec with many negatives and a calibrated loss"
    yield Model.of("system", "gSASRec", gbce_loss, recipe("gsasrec"), keys, summary=about)
    layers = {"user_hidden": [64], "item_hidden": [64], "activation": "tanh", "similarity": "cosine"}
    yield Model.of(
        "system",
        "DSSM",
        TwoTower,
        {"retrieval": {"positive": "click", "loss": "exposures", "tower": layers}},
        ("retrieval.tower", TwoTowerConfig, tuple(layers)),
        summary="two_tower with hidden layers on both sides",
    )
    yield Model.of(
        "system",
        "GateNet",
        FieldGate,
        _nested("ranking.model", {"hidden_gate": "tanh", "input": {"field_gate": {"kind": "vector"}}}),
        ("ranking.model", RankerConfig, ("hidden_gate",)),
        ("ranking.model.input.field_gate", FieldGateConfig, ()),
        summary="field_gate on embeddings, hidden_gate on layers",
    )
    inputs = {"embedding_dim": 32, "joint_gate": {"enabled": True}}
    yield Model.of(
        "system",
        "GemNN",
        JointGate,
        {"retrieval": {"tower": {"dim": 32}}, "ranking": {"warm_start_rows": "plain", "model": {"input": inputs}}},
        ("ranking", RankingConfig, ("warm_start", "warm_start_rows")),
        ("ranking.model.input.joint_gate", JointGateConfig, ()),
        summary="joint_gate over all embeddings, and ranking.warm_start from the retriever",
    )
    yield Model.of("system", "missing-value layer", MissingValue, _nested("ranking.model.kind", "meituan"))
    bound = ["click", "conversion", "order"]
    tasks = [{"name": "click"}, {"name": "conversion", "where": "click"}, {"name": "order", "column": "conversion"}]
    yield Model.of(
        "system",
        "KL bound",
        symmetric_kl,
        {"data": {"tasks": tasks}, "ranking": {"loss": {"kl_bound": bound}}},
        ("ranking.loss", LossConfig, ("kl_bound", "kl_weight")),
        summary="ranking.loss.kl_bound holds p(click) p(conversion) to p(order)",
    )
    yield Model.of(
        "system",
        "sample reweighting",
        task_loss,
        {"ranking": {"loss": {"positive_weight": {"conversion": 10.0}}, "calibration": {"kind": "reweighting"}}},
        ("data", DataConfig, ("weight", "weights")),
        ("ranking.loss", LossConfig, ("reduction", "positive_weight")),
        summary="data.weight, data.weights, ranking.loss.positive_weight; undone by ranking.calibration",
        paper="baseline",
    )
    yield Model.of(
        "system",
        "equal-frequency",
        equal_frequency,
        {"data": {"scale": "equal_frequency"}},
        ("data", DataConfig, ("scale",)),
        summary='scale = "equal_frequency" of a number or a count, or of all by data.scale',
    )
