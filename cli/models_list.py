"""Everything that can be named in a configuration, with its paper and one line: what `recsys models` prints."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

Entry = dict[str, str]


def catalogue() -> list[Entry]:
    """`{"kind", "name", "paper", "summary"}` of every retriever, encoder, ranker, gate, loss and balance."""
    return [*_retrievers(), *_encoders(), *_rankers(), *_gates(), *_losses(), *_balances(), *_systems()]


def _entry(kind: str, name: str, described: object, paper: str = "") -> Entry:
    """Summary from the first sentence of a docstring, unless `described` is the summary itself."""
    text = described if isinstance(described, str) else inspect.getdoc(described) or ""
    first = re.split(r"(?<=\.)\s|\n\n", " ".join(text.split("\n\n")[0].split()))[0]
    return {"kind": kind, "name": name, "paper": paper, "summary": first.rstrip(".")}


def _retrievers() -> Iterator[Entry]:
    from ..retrieval.baselines import BASELINES
    from ..retrieval.towers.two_tower import TwoTower

    yield _entry("retriever", "two_tower", TwoTower, "Huang et al. CIKM 2013 (DSSM)")
    for name, baseline in BASELINES.entries().items():
        yield _entry("retriever", name, baseline, baseline.paper)


def _encoders() -> Iterator[Entry]:
    from ..nn.sequence import ENCODERS

    for name, encoder in ENCODERS.entries().items():
        yield _entry("history encoder", name, encoder, encoder.paper)


def _rankers() -> Iterator[Entry]:
    from ..ranking.ranker import ranker_kinds

    for name, ranker in ranker_kinds().items():
        yield _entry("ranker", name, ranker.summary, ranker.paper)


def _gates() -> Iterator[Entry]:
    from ..nn.activation import HiddenGate
    from ..nn.gates import JointGate

    gatenet, gemnn = "Huang et al. 2020 (GateNet)", "Fei et al. SIGIR 2021 (GemNN)"
    yield _entry("gate", "field_gate vector", "one gate per field, computed from that field's embedding", gatenet)
    yield _entry("gate", "field_gate bit", "one gate per coordinate, computed from its field's embedding", gatenet)
    yield _entry("gate", "hidden_gate", HiddenGate, gatenet)
    yield _entry("gate", "joint_gate", JointGate, gemnn)


def _losses() -> Iterator[Entry]:
    from ..ranking import losses as ranking
    from ..retrieval.towers import losses as retrieval

    yield _entry("retrieval loss", "in_batch", retrieval.in_batch_softmax_loss, "Yi et al. RecSys 2019")
    yield _entry("retrieval loss", "mixed", retrieval.mixed_negative_softmax_loss, "Yang et al. WWW 2020")
    yield _entry("retrieval loss", "full_softmax", retrieval.full_softmax_loss, "softmax regression")
    yield _entry("retrieval loss", "sampled", retrieval.sampled_softmax_loss, "Huang et al. CIKM 2013")
    yield _entry("retrieval loss", "bce", retrieval.bce_loss, "Huang et al. CIKM 2013")
    exposures = "each logged exposure against its 0/1 label, by itself"
    yield _entry("retrieval loss", "exposures", exposures, "Huang et al. CIKM 2013")
    yield _entry("ranking loss", "task", ranking.task_loss, "Tang et al. RecSys 2020, eq. 9")
    yield _entry("ranking loss", "select", ranking.listwise_loss, "Cao et al. ICML 2007 (ListNet)")


def _balances() -> Iterator[Entry]:
    from ..ranking.balance import balance_kinds

    for name, balance in balance_kinds().items():
        yield _entry("balance", name, balance.summary, balance.paper)


def _systems() -> Iterator[Entry]:
    """Names that people look for, where the configuration calls the thing otherwise."""
    meituan = "Meituan technology blog 2018"
    yield _entry("system", "DSSM", "two_tower with hidden layers on both sides", "Huang et al. CIKM 2013")
    yield _entry("system", "GateNet", "field_gate on embeddings, hidden_gate on layers", "Huang et al. 2020")
    chain = "joint_gate over all embeddings, and ranking.warm_start from the retriever"
    yield _entry("system", "GemNN", chain, "Fei et al. SIGIR 2021")
    yield _entry("system", "missing-value layer", "a learned value for each missing number, in every model", meituan)
    yield _entry("system", "KL bound", "ranking.loss.kl_bound holds p(click) p(conversion) to p(order)", meituan)
    weights = "data.weight, data.weights, ranking.loss.positive_weight; undone by ranking.calibration"
    yield _entry("system", "sample reweighting", weights, "baseline")
    yield _entry("system", "equal-frequency", 'scale = "equal_frequency" of a number or a count', meituan)
