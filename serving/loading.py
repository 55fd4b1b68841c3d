"""A kept version in memory, ready to answer; and the trial that a new one stands before it is served."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..artifacts.folder import Run, open_run
from ..artifacts.manifest import read_run_manifest
from ..base.errors import RecsysError, RunError
from ..base.memory import give_back
from ..configs.rules import load_rules
from ..funnel.folder import load_run
from ..funnel.funnel import Funnel
from ..live.answering import Answering
from ..live.answers import Answer
from ..live.log import StateLog
from ..live.overlay import overlay_of
from ..live.requests import Request
from .logs import where

K = 10
WARMING = 8
"""Answers that a version gives before anybody asks it."""


def load_answering(
    name: str,
    version: str,
    folder: Path,
    rules: Path | None = None,
    key: bytes | None = None,
    log: StateLog | None = None,
) -> Answering:
    """A version of a run, warm. Its files were verified when it was kept.

    Args:
        name: of the run, as answers give it.
        version: likewise.
        folder: of its files.
        rules: TOML file, instead of the run's own last stage.
        key: signs cursors.
        log: what happens meanwhile; the version answers with all of it that it does not know.

    Raises:
        ConfigError: the rules are wrong.
        RunError: a file belongs to another model, or the run cannot recommend.
    """
    trained = load_run(Run(folder, read_run_manifest(folder)))
    if rules is not None:
        trained = replace(trained, config=trained.config.model_copy(update={"rules": load_rules(rules)}))
    funnel = Funnel(trained)
    funnel.warm_up(recorded=True)
    overlay = None if log is None else overlay_of(funnel, log)
    answering = Answering(funnel if overlay is None else overlay.funnel, name, version, key, overlay)
    for request in stored_requests(answering, WARMING):  # alone and together, with all that the first answer sets up
        answering.answer([request])
    answering.answer(stored_requests(answering, WARMING))
    give_back()
    return answering


def stored_requests(answering: Answering, count: int) -> list[Request]:
    """Requests of users spread over the run, one of somebody unknown, and one anonymous."""
    data = answering.funnel.dataset
    k = min(K, data.num_catalogue)
    step = max(1, data.num_users // count)
    users = [str(data.user_ids[row]) for row in range(0, data.num_users, step)][:count]
    return [*(Request(user=user, k=k) for user in users), Request(user="nobody knows this user", k=k), Request(k=k)]


def judge(new: Answering, old: Answering | None, count: int) -> dict[str, float]:
    """Let a version answer, beside the one that is served.

    Returns:
        `overlap`: mean share of items that the lists have in common; 1 where nothing is served yet.

    Raises:
        RunError: an answer is missing, too short, or not finite.
    """
    requests = stored_requests(new, count)
    lists = [_items(answer) for answer in new.answer(requests)]
    overlaps = [1.0]
    if old is not None:
        fitting = [replace(request, k=min(request.k, old.funnel.dataset.num_catalogue)) for request in requests]
        pairs = zip(lists, (_items(answer) for answer in old.answer(fitting)), strict=True)
        overlaps = [len(set(mine) & set(theirs)) / max(len(mine), 1) for mine, theirs in pairs]
    return {"overlap": sum(overlaps) / len(overlaps)}


def _items(answer: Answer | RecsysError) -> Sequence[str]:
    if isinstance(answer, RecsysError):
        raise RunError(f"a stored request has no answer: {answer}")
    if not answer.items and answer.eligible:
        raise RunError("a stored request has an empty answer though items are eligible; train the run again")
    for item in answer.items:
        if item["score"] is None and not (item["pinned"] or item["explored"]):
            raise RunError("an answer has a score that is no number; the weights are not finite, train the run again")
    return [item["item"] for item in answer.items]


def main(told: dict[str, Any], answer: int) -> int:
    """The trial of a version, in a process of its own.

    Args:
        told: what is tried, against what.
        answer: descriptor of a socket, for the result as JSON.

    Returns:
        The exit code.
    """
    torch.set_num_threads(1)
    rules = Path(told["rules"]) if told["rules"] else None
    try:
        open_run(Path(told["folder"]))  # every hash, once
        new = load_answering("main", told["version"], Path(told["folder"]), rules)
        old = load_answering("main", "", Path(told["old"]), rules) if told["old"] else None
        found: dict[str, Any] = {"ok": True, **judge(new, old, told["requests"])}
    except RecsysError as error:
        found = {"ok": False, "why": str(error)}
    except (ValueError, KeyError, IndexError, RuntimeError, OSError, AssertionError) as error:
        place = where(error)
        found = {"ok": False, "why": f"it fails with {place['error']} at {place['at']}; train the run again"}
    with socket.socket(fileno=answer) as said:
        said.sendall(json.dumps(found).encode())
    return 0
