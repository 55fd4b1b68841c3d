"""Answers of an exported run: this file, the folder it lies in, numpy and onnxruntime are all that is needed.

    run = Exported("folder")
    query = run.encode("query", [{"gender": "f", "age": 31, "recent_clicks": [...]}])
    items = run.candidates(["318", "12"])
    run.rank(query | items)                    # scores, and every task's probability, in the order given
    run.nearest(run.user_vector(user), 10)     # items by the towers alone

`io.json` says what every number of every input is. What a run reads off its own log (counts of a user, of an item and
of a pair; opinions of retrievers) comes with the request: raw statistics in `encode`, or encoded arrays as they are.

    python predict.py                          # answers the examples beside it and compares them with the run's
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

Arrays = Mapping[str, Any]
UNKNOWN, FIRST = 1, 2
SMALLEST = 1e-12


class Exported:
    """An export folder.

    Args:
        folder: where `io.json` lies.
        threads: of a request.
    """

    def __init__(self, folder: str | Path, threads: int = 1) -> None:
        self.folder = Path(folder)
        if not (self.folder / "io.json").is_file():
            raise FileNotFoundError(
                f"{self.folder} holds no io.json, so it is no whole export; run recsys export again"
            )
        self.about: dict[str, Any] = json.loads((self.folder / "io.json").read_text(encoding="utf-8"))
        self.networks: dict[str, Any] = self.about["networks"]
        self._threads = threads
        self._sessions: dict[str, Any] = {}
        self._rows: dict[str, dict[str, int]] = {}
        self._arrays: dict[str, Any] = {}

    def run(self, network: str, inputs: Arrays) -> dict[str, Any]:
        """Outputs of `ranker`, `user_tower` or `item_tower` by name.

        Raises:
            ValueError: an input is missing or of another shape.
        """
        if network not in self._sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = self._threads
            file = str(self.folder / self.networks[network]["file"])
            self._sessions[network] = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        session = self._sessions[network]
        feed = {}
        for one in self.networks[network]["inputs"]:
            name = one["name"]
            if name not in inputs:
                raise ValueError(f"{network} needs the input {name}: {one['dtype']} {one['shape']}")
            array = np.ascontiguousarray(inputs[name], dtype=one["dtype"])
            given = [
                wanted if wanted == "rows" else size for wanted, size in zip(one["shape"], array.shape, strict=False)
            ]
            if array.ndim != len(one["shape"]) or given != one["shape"]:
                raise ValueError(f"{name} has the shape {list(array.shape)}; expected {one['shape']}")
            feed[name] = array
        used = {one.name for one in session.get_inputs()}  # a network need not read all of its columns
        found = session.run(None, {name: array for name, array in feed.items() if name in used})
        return dict(zip(self.networks[network]["outputs"], found, strict=True))

    def rank(self, inputs: Arrays) -> dict[str, Any]:
        """One request's candidates: `score` [C] float64, higher is better, and `tasks`, each [C].

        Args:
            inputs: of the network `ranker`, encoded.
        """
        logits = {name.partition(".")[2]: values for name, values in self.run("ranker", inputs).items()}
        tasks = {name: self._probability(name, values) for name, values in logits.items()}
        return {"score": self._blend(tasks), "tasks": tasks}

    def user_vector(self, inputs: Arrays) -> Any:
        """Vector of one user, [width]; [M, width] of M interests. See `window` for what a history becomes."""
        return self.run("user_tower", inputs)["user.vector"][0]

    def window(self, items: Sequence[Any], times: Sequence[float] = (), properties: Any = None) -> dict[str, Any]:
        """A history as inputs of `user_tower`, beside the user's columns.

        Args:
            items: raw ids, oldest first; those the run does not know are left out.
            times: seconds of each.
            properties: rows of the event features of each, [n, p]; unknown where absent.
        """
        content = self._array("item_content")
        length = next(
            one["shape"][1] for one in self.networks["user_tower"]["inputs"] if one["name"] == "event.present"
        )
        described = [one for one in self.networks["user_tower"]["inputs"] if one["name"] == "event.properties"]
        known = [place for place, item in enumerate(items) if text(item) in self._items][-length:]
        kept = len(known)
        found = {
            "event.present": np.arange(length)[None] < kept,
            "event.times": np.zeros((1, length)),
            "event.content": np.zeros((1, length, content.shape[1]), dtype=np.float32),
        }
        # What is padded stands for item 0, as in the run; nothing reads it.
        rows = [self._items[text(items[place])] for place in known] + [0] * (length - kept)
        found["event.content"][0] = content[rows]
        if len(times):
            found["event.times"][0, :kept] = np.asarray(times, dtype=np.float64)[known]
        if described:
            found["event.properties"] = np.zeros(described[0]["shape"], dtype=np.int64)
            given = np.full((len(items), described[0]["shape"][2]), UNKNOWN) if properties is None else properties
            found["event.properties"][0, :kept] = np.asarray(given)[known]
        return found

    def nearest(self, vector: Any, k: int, without: Sequence[Any] = ()) -> list[tuple[str, float]]:
        """The best `k` items of the catalogue by the towers alone: (id, product), best first."""
        products = np.atleast_2d(vector) @ self._array("item_vectors").T
        products = products.max(0)
        products[[self._items[text(item)] for item in without if text(item) in self._items]] = -np.inf
        best = np.argsort(-products, kind="stable")[:k]
        return [(self.about["items"][place], float(products[place])) for place in best]

    def candidates(self, items: Sequence[Any], pairs: Mapping[str, Sequence[Any]] | None = None) -> dict[str, Any]:
        """Item columns of the ranker for items of the catalogue, as the run has them.

        Args:
            items: raw ids.
            pairs: columns that depend on the user as well (`io.json` names them), raw; those that are not given are as
                of a user who never met the items.

        Raises:
            KeyError: an item is not of the catalogue.
        """
        rows = [self._items[text(item)] for item in items]
        found = {name: self._array(name)[rows] for name in self._names("item")}
        told = {column: (pairs or {}).get(column, [None] * len(rows)) for column in self.about["pairs"]}
        for one in self.networks["ranker"]["inputs"]:
            for place, column in enumerate(one["columns"]):
                if one["name"] in found and column in told:
                    kind = one["name"].partition(".")[2]
                    found[one["name"]][:, place] = [self._number(kind, column, value) for value in told[column]]
        return found

    def encode(self, side: str, rows: Sequence[Mapping[str, Any]], network: str = "ranker") -> dict[str, Any]:
        """Raw columns as inputs.

        Args:
            side: `query`, `item` or `user`, the first part of the inputs' names.
            rows: column -> raw value of each row; a column that is not there is missing. A list is a list of values, a
                sequence a list of mappings from its columns to values, oldest first.
            network: whose inputs.
        """
        found = {}
        for one in self.networks[network]["inputs"]:
            part, kind, name = [*one["name"].split(".", 2), "", ""][:3]
            if part != side:
                continue
            if kind in ("categorical", "numeric"):
                values = [[self._number(kind, c, row.get(c)) for c in one["columns"]] for row in rows]
            elif kind == "vector":
                values = [row.get(name, [0.0] * one["shape"][1]) for row in rows]
            else:
                width, length = len(one["columns"]), one["shape"][1]
                cells: Any = np.zeros((len(rows), length, width), dtype=np.int64)
                for cell, row in zip(cells, rows, strict=True):
                    events = row.get(name) or []
                    kept = events[-length:] if kind == "sequence" else self._listed(name, events)[:length]
                    for place, event in enumerate(kept):
                        told = [event] if kind == "list" else [event.get(c) for c in one["columns"]]
                        cell[place] = [
                            self._number("categorical", c, v) for c, v in zip(one["columns"], told, strict=True)
                        ]
                values = cells if kind == "sequence" else cells[:, :, 0]
            found[one["name"]] = np.array(values, dtype=one["dtype"])
        return found

    def _listed(self, name: str, value: Any) -> list[Any]:
        """A cell of several values as a list."""
        if not isinstance(value, str):
            return list(value)
        return [part.strip() for part in value.split(self.about["columns"][name].get("separator", "|")) if part.strip()]

    def _number(self, kind: str, column: str, value: Any) -> float:
        """A raw value as what stands in a tensor: a row of a vocabulary, a bucket, or a scaled number."""
        how = self.about["columns"][column]
        missing = value is None or value == "" or (isinstance(value, float) and np.isnan(value))
        if missing and how.get("fill") is not None:
            value, missing = how["fill"], False
        if how["kind"] == "rows":
            return UNKNOWN if missing else int(value)
        if how["kind"] == "hashed":
            raise ValueError(f"{column} is hashed; give its encoded row in {kind}, not the raw value")
        if how["kind"] == "log1p":
            return float(np.float32(np.log1p(0.0 if missing else float(value))))
        if how["kind"] == "values":
            return self._values(column).get("" if missing else text(value), UNKNOWN)
        number = np.float32(np.nan if missing else value)
        return bucket(number, how) if kind == "categorical" else scaled(number, how)

    def _values(self, column: str) -> dict[str, int]:
        if column not in self._rows:
            values = self.about["columns"][column]["values"]
            self._rows[column] = {value: place + FIRST for place, value in enumerate(values)}
        return self._rows[column]

    @property
    def _items(self) -> dict[str, int]:
        if "" not in self._rows:
            self._rows[""] = {item: place for place, item in enumerate(self.about["items"])}
        return self._rows[""]

    def _names(self, side: str) -> list[str]:
        return [one["name"] for one in self.networks["ranker"]["inputs"] if one["name"].startswith(side + ".")]

    def _array(self, name: str) -> Any:
        if name not in self._arrays:
            self._arrays[name] = np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return self._arrays[name]

    def _probability(self, task: str, logits: Any) -> Any:
        """Logits [C] as the task's probability, its value in the label's unit, or its share of the request."""
        how = self.about["tasks"][task]
        if how["kind"] == "share":
            shifted = np.exp(logits - logits.max())
            return shifted / shifted.sum()
        if how["kind"] == "value":
            return np.expm1(logits) if how["log1p"] else logits
        if how["kind"] == "isotonic":
            return np.interp(logits, how["logits"], how["probabilities"]).astype(np.float32)
        z = how["slope"] * logits.astype(np.float64) + how["shift"]
        small = np.exp(-np.abs(z))
        return (np.where(z >= 0, 1.0, small) / (1.0 + small)).astype(np.float32)

    def _blend(self, tasks: Arrays) -> Any:
        how = self.about["blend"]
        if how["kind"] == "task":
            return np.asarray(tasks[how["task"]], dtype=np.float64)
        total: Any = 0.0
        for name, weight in how["weights"].items():
            value = np.asarray(tasks[name], dtype=np.float64)
            total = total + weight * (np.log(np.maximum(value, SMALLEST)) if how["kind"] == "product" else value)
        return np.exp(total) if how["kind"] == "product" else total


def text(value: Any) -> str:
    """A raw value as the run's vocabularies have it: numbers by their decimal text."""
    if isinstance(value, bool):
        return str(value)
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def bucket(number: Any, how: Mapping[str, Any]) -> int:
    """Row of a number: 1 missing, 2 the commonest value, 3.. the buckets between the edges."""
    if np.isnan(number):
        return UNKNOWN
    if how["mode"] is not None and number == np.float32(how["mode"]):
        return FIRST
    return FIRST + 1 + int(np.searchsorted(np.array(how["edges"], dtype=np.float64), np.float64(number), side="right"))


def scaled(number: Any, how: Mapping[str, Any]) -> float:
    """A number standardised and clipped to 8 deviations, or as its share of bins of equal mass; NaN where missing."""
    if np.isnan(number):
        return float("nan")
    x = float(number)
    if "quantiles" in how:
        return float(np.searchsorted(how["quantiles"], x, side="right") / (len(how["quantiles"]) + 1))
    x = float(np.log1p(max(x, 0.0))) if how["log"] else x
    return float(np.clip((x - how["mean"]) / how["deviation"], -8.0, 8.0))


def check(folder: str | Path) -> dict[str, Any]:
    """Answer the examples of the folder and compare: the largest difference of each of the run's answers.

    Raises:
        ValueError: there are none, or an answer differs by more than 1e-5.
    """
    run, stored = Exported(folder), np.load(Path(folder) / "examples.npz", allow_pickle=False)
    worst: dict[str, float] = {}

    def compared(name: str, found: Any, wanted: Any) -> None:
        worst[name] = max(worst.get(name, 0.0), float(np.max(np.abs(found - wanted) / np.maximum(np.abs(wanted), 1.0))))

    count = int(stored["requests"])
    for number in range(count):
        own = {name.partition("/")[2]: stored[name] for name in stored.files if name.startswith(f"{number}/")}
        if "user_tower" in run.networks:
            compared("user.vector", run.user_vector(own), own["answer.user.vector"])
        if "item_tower" in run.networks:
            inputs = {name[len("tower.") :]: own[name] for name in own if name.startswith("tower.")}
            compared("item.embedding", run.run("item_tower", inputs)["item.embedding"], own["answer.item.embedding"])
        if "ranker" in run.networks:
            found = run.rank(own)
            compared("score", found["score"], own["answer.score"])
            for task, values in found["tasks"].items():
                compared(task, values, own[f"answer.{task}"])
    if not worst or max(worst.values()) > 1e-5 or any(np.isnan(value) for value in worst.values()):
        raise ValueError(f"{folder}: {count} examples, largest differences {worst}; at most 1e-05 is allowed")
    return {"requests": count, "largest_difference": worst}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(check(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent), indent=1) + "\n")
