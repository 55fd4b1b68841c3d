"""Exported networks: every ranker with every history encoder, and every encoder of the user tower, for any number of
candidates, in onnxruntime and as the text of a torch program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from recsys.base.arrays import AnyArray
from recsys.data.batch import Block
from recsys.data.schema import TaskSpec
from recsys.funnel.export.networks import ItemNetwork, Network, RankerNetwork, UserNetwork, as_arrays
from recsys.funnel.export.text import load_program, write_program
from recsys.funnel.export.write import write_onnx
from recsys.nn.sequence import ENCODERS
from recsys.ranking.requests import SELECT, RequestBatch, RequestRanker, SelectConfig
from recsys.retrieval.towers.inputs import TowerLayout, Windows
from recsys.retrieval.towers.linear import Factors, LinearPart
from recsys.retrieval.towers.two_tower import TwoTower, TwoTowerConfig
from recsys.testing.toy import TOY_TASKS, Toy
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.rankers import INTERACTIONS, KINDS

OPINIONS = ("a", "b", "c")
ENCODER_NAMES = sorted(ENCODERS.entries())
EXTRAS: dict[str, dict[str, Any]] = {
    "aitm": {"encoder": "lstm"},
    "dupn": {"encoder": "dupn", "peephole": True},
    "escm2": {"encoder": "transformer", "interaction": {"kind": "fm"}},
    "esmm": {"encoder": "decayed_mean", "target": {"unit": "din", "hidden": (5,), "search": "hash"}},
    "meituan": {"encoder": "dupn", "target": {"unit": "dot", "search": "match"}, "cross_layers": 1},
    "moe": {"interaction": {"kind": "dlrm"}, "target": {"unit": "din", "hidden": (5,)}},
    "shared_bottom": {"interaction": {"kind": "masknet"}, "field_gate": {"kind": "bit"}},
    "single_task": {"interaction": {"kind": "autoint"}, "joint_gate": {"enabled": True}},
}
"""What else these rankers read their input with; export costs most for the large ones, which are plain."""
PUBLISHED = {"sasrec", "esasrec", "gru4rec", "bert4rec", "hstu"}
"""Encoders that are exported with the user tower alone."""
QUICK = {"aitm", "mmoe"}
"""Kinds that `make test` exports, ten seconds each: experts, and a chain with a history."""


def input_keys(kind: str) -> dict[str, Any]:
    keys = dict(EXTRAS.get(kind, {}))
    history = {name: keys.pop(name) for name in ("encoder", "peephole") if name in keys}
    return {**keys, "history": history}


def in_onnxruntime(network: Network, folder: Path, feed: dict[str, AnyArray]) -> dict[str, AnyArray]:
    file = folder / f"{network.name}.onnx"
    if not file.exists():
        write_onnx(network, file)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    used = {one.name for one in session.get_inputs()}
    found = session.run(None, {name: values for name, values in feed.items() if name in used})
    return dict(zip(network.outputs, found, strict=True))


def in_torch(network: Network, folder: Path, feed: dict[str, AnyArray]) -> dict[str, AnyArray]:
    if not (folder / f"{network.name}.py").exists():
        write_program(network, folder)
    found = load_program(folder, network.name)(**{name: torch.from_numpy(values) for name, values in feed.items()})
    return {name: values.numpy() for name, values in found.items()}


def request(toy: Toy, candidates: int) -> RequestBatch:
    generator = torch.Generator().manual_seed(candidates)
    opinions = torch.randn(candidates, len(OPINIONS), generator=generator)
    prior = torch.randn(candidates, generator=generator)
    return RequestBatch(
        toy.requests(candidates, seed=candidates), opinions, prior, torch.zeros(candidates, dtype=torch.bool)
    )


@pytest.mark.parametrize(
    "kind", [one if one in QUICK else pytest.param(one, marks=pytest.mark.exhaustive) for one in KINDS]
)
def test_rankers_answer_any_number_of_candidates(toy: Toy, tmp_path: Path, kind: str) -> None:
    ranker = toy.ranker(kind, tasks=(*TOY_TASKS[:2], TaskSpec(name=SELECT)), input=input_keys(kind))
    model = RequestRanker(ranker, len(OPINIONS), SelectConfig()).eval()
    torch.nn.init.normal_(model.output.weight)  # as if it had learned to listen to the opinions
    part = RankerNetwork(model, toy.layout.query, toy.layout.item, OPINIONS, request(toy, 5))
    for candidates in (1, 2, 17, 64):
        asked = request(toy, candidates)
        with torch.inference_mode():
            wanted = {f"logit.{task}": values.numpy() for task, values in model(asked).items()}
        feed = as_arrays(part.network, part.tensors(asked))
        for found in (in_onnxruntime(part.network, tmp_path, feed), in_torch(part.network, tmp_path, feed)):
            assert set(found) == set(wanted)
            for name, values in nonempty(found.items()):
                np.testing.assert_allclose(values, wanted[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_a_ranker_without_requests_answers_rows_that_have_a_query_each(toy: Toy, tmp_path: Path) -> None:
    def rows(count: int) -> RequestBatch:
        return RequestBatch(
            toy.batch(count, count), torch.empty(count, 0), torch.zeros(count), torch.zeros(count, dtype=torch.bool)
        )

    ranker = toy.ranker("shared_bottom", bottom_hidden=(8,)).eval()
    part = RankerNetwork(ranker, toy.layout.query, toy.layout.item, (), rows(5))
    for count in (1, 40):
        with torch.inference_mode():
            wanted = ranker(rows(count).batch)
        found = in_onnxruntime(part.network, tmp_path, as_arrays(part.network, part.tensors(rows(count))))
        for task, values in nonempty(wanted.items()):
            np.testing.assert_allclose(found[f"logit.{task}"], values.numpy(), rtol=1e-5, atol=1e-5)


def towers(toy: Toy, **keys: Any) -> TwoTower:
    layout = TowerLayout(
        item=toy.layout.item, user=toy.layout.query, events=("gap",), sizes=toy.layout.sizes, item_id="item"
    )
    history = {"encoder": keys.pop("encoder"), "hidden": 8, "attention_hidden": 4, "max_length": 70}
    config = TwoTowerConfig.model_validate({"dim": 8, "init_std": 0.5, "history": history, **keys})
    return TwoTower(config, layout).eval()


def window(toy: Toy, length: int, events: int, width: int) -> tuple[Windows, torch.Tensor]:
    """One user with so many events in a window of a length."""
    generator = torch.Generator().manual_seed(events)
    present = torch.arange(length)[None] < events
    times = torch.rand(1, length, generator=generator, dtype=torch.float64).mul(1e6).cumsum(1)
    windows = Windows(
        users=toy.query(1),
        items=torch.zeros(1, length, dtype=torch.int64),
        properties=torch.randint(1, 6, (1, length, 1), generator=generator) * present.unsqueeze(2),
        present=present,
        from_start=present[:, 0],
        times=times,
    )
    return windows, torch.randn(1, length, width, generator=generator)


def assert_same_user(
    of_user: UserNetwork, model: TwoTower, folder: Path, windows: Windows, content: torch.Tensor
) -> None:
    with torch.inference_mode():
        wanted = model.user_vectors(windows, content).numpy()
    feed = as_arrays(of_user.network, of_user.tensors(windows, content))
    for found in (in_onnxruntime(of_user.network, folder, feed), in_torch(of_user.network, folder, feed)):
        np.testing.assert_allclose(found["user.vector"], wanted, rtol=1e-5, atol=1e-5)


def test_towers_with_a_linear_part(toy: Toy, tmp_path: Path) -> None:
    model = towers(toy, encoder="mean")
    random = np.random.default_rng(1)
    rows = model.layout.sizes["item"]
    made = (random.standard_normal((rows, 3)).astype(np.float32) for _ in range(2))
    model.linear = LinearPart.of(Factors(*made), 2.0)
    of_user = UserNetwork(model, *window(toy, 70, 9, 8 + 3), model.layout.events)
    for events in (0, 5, 70):
        assert_same_user(of_user, model, tmp_path, *window(toy, 70, events, 8 + 3))
    of_items = ItemNetwork(model, toy.items(5))
    block = toy.items(30, seed=3)
    with torch.inference_mode():
        content, vectors = model.embed_items(block)
    found = in_onnxruntime(of_items.network, tmp_path, as_arrays(of_items.network, of_items.item.tensors(block)))
    np.testing.assert_allclose(found["item.embedding"], vectors.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["item.content"], content.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "keys"),
    [
        ("mean", {"similarity": "cosine"}),
        ("transformer", {"activation": "tanh"}),
        *(
            pytest.param(encoder, keys, marks=pytest.mark.exhaustive)
            for encoder, keys in (
                ("decayed_mean", {"interests": 3}),
                ("lstm", {"field_gate": {"kind": "vector"}}),
                ("gru4rec", {"item_bias": False}),
                ("hstu", {"similarity": "cosine"}),
                ("dupn", {"item_hidden": (6,)}),
                ("sasrec", {}),
                ("esasrec", {}),
                ("bert4rec", {}),
            )
        ),
    ],
)
def test_towers_with_every_encoder(toy: Toy, tmp_path: Path, encoder: str, keys: dict[str, Any]) -> None:
    assert encoder in ENCODER_NAMES
    model = towers(toy, encoder=encoder, **keys)
    of_user = UserNetwork(model, *window(toy, 70, 9, 8), model.layout.events)
    for events in (0, 1, 69, 70):
        assert_same_user(of_user, model, tmp_path, *window(toy, 70, events, 8))
    of_items = ItemNetwork(model, toy.items(5))
    for count in (1, 30):
        block: Block = toy.items(count, seed=count)
        with torch.inference_mode():
            content, vectors = model.embed_items(block)
        feed = as_arrays(of_items.network, of_items.item.tensors(block))
        for found in (in_onnxruntime(of_items.network, tmp_path, feed), in_torch(of_items.network, tmp_path, feed)):
            np.testing.assert_allclose(found["item.embedding"], vectors.numpy(), rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(found["item.content"], content.numpy(), rtol=1e-5, atol=1e-5)


def test_every_encoder_and_interaction_is_tried() -> None:
    of_rankers = {"mean", *(keys.get("encoder", "mean") for keys in EXTRAS.values())}
    assert of_rankers | PUBLISHED == set(ENCODER_NAMES)  # a ranker reads an encoder's `last` as the user tower does
    assert {keys["interaction"]["kind"] for keys in EXTRAS.values() if "interaction" in keys} == set(INTERACTIONS)
