"""A network as Python text of torch operations and a file of weights: a program that is read without pickle.

`torch.export.save` writes the example inputs of a program by pickle, and a reader of its archives unpickles them. The
same program is its text: the exporter prints it, and the weights have a format of their own.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ...base.errors import RunError
from .networks import Network

HEAD = '''"""The network `{name}` of an exported run, for any number of rows. Needs torch and safetensors.

    network = load()
    network(**inputs)  # tensors by name, see `io.json` -> outputs by name
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import device, inf, nan  # noqa: F401

WEIGHTS = {weights}
INPUTS = {inputs}
OUTPUTS = {outputs}


def load(folder=Path(__file__).parent):
    """The network as a function of tensors by name."""
    stored = load_file(str(Path(folder) / "{name}.safetensors"))
    weights = [stored[name] for name in WEIGHTS]

    def network(**inputs):
        with torch.inference_mode():
            found = forward(None, *weights, *(inputs[name] for name in INPUTS))
        return dict(zip(OUTPUTS, found))

    return network


'''


def write_program(network: Network, folder: Path) -> None:
    """Write `<name>.py` and `<name>.safetensors`.

    Raises:
        RunError: the operations of the network cannot be told as one function.
    """
    program = network.exported()
    signature = program.graph_signature
    weights: dict[str, Tensor] = {}
    for spec in signature.input_specs:
        if spec.target is not None:
            known = program.state_dict.get(spec.target, program.constants.get(spec.target))
            assert isinstance(known, Tensor)
            weights[spec.target] = known.detach().contiguous().clone()
    code = program.graph_module.code.strip()
    if "self." in code:
        raise RunError(f"the network {network.name} has parts that are no plain operations; export it as onnx")
    save_file(weights, str(folder / f"{network.name}.safetensors"))
    inputs = [one.name for one in network.inputs]
    head = HEAD.format(name=network.name, weights=list(weights), inputs=inputs, outputs=list(network.outputs))
    (folder / f"{network.name}.py").write_text(head + code + "\n", encoding="utf-8")


def load_program(folder: Path, name: str) -> Any:
    """The network `name` of a folder that `write_program` wrote: tensors by name -> outputs by name."""
    spec = importlib.util.spec_from_file_location(f"exported_{name}", folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load()


def check(folder: Path) -> dict[str, Any]:
    """The towers' vectors and the ranker's logits for the examples of the folder, beside those of the run.

    Raises:
        ValueError: one differs by more than 1e-5.
    """
    about = json.loads((folder / "io.json").read_text(encoding="utf-8"))
    stored = np.load(folder / "examples.npz", allow_pickle=False)
    worst: dict[str, float] = {}
    for name, told in about["networks"].items():
        network = load_program(folder, name)
        prefix = "tower." if name == "item_tower" else ""
        for number in range(int(stored["requests"])):
            inputs = {
                one["name"]: torch.from_numpy(np.array(stored[f"{number}/{prefix}{one['name']}"]))
                for one in told["inputs"]
            }
            for output, values in network(**inputs).items():
                wanted = f"{number}/answer.{output}"
                if wanted in stored.files:
                    found = values.numpy().reshape(stored[wanted].shape)
                    size = np.maximum(np.abs(stored[wanted]), 1.0)
                    worst[output] = max(worst.get(output, 0.0), float(np.max(np.abs(found - stored[wanted]) / size)))
    if not worst or not max(worst.values()) <= 1e-5:
        raise ValueError(f"largest differences {worst}; at most 1e-05 is allowed")
    return {"requests": int(stored["requests"]), "largest_difference": worst}
