"""One optimiser for a whole model: AdamW for dense parameters, row-sparse updates for embedding tables.

The learning rate rises linearly over `warmup_steps` and then stays or falls as a cosine. Clipping is by the norm over
everything: table rows enter with their summed gradient, so the norm is that of the dense gradient nobody had to build.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..base.errors import RecsysError, RunError
from ..base.settings import Settings
from ..nn.embedding import EmbeddingTable
from .engines.local import mean_gradients
from .sparse import RowGradient, TableOptimizer


class OptimConfig(Settings):
    """How weights move."""

    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate of dense parameters."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of Adam's two moments."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay of dense matrices; biases and other vectors are left alone."""
    clip_norm: float = Field(default=0.0, ge=0)
    """Largest norm of the whole gradient, tables included; 0 does not clip."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises from zero; at most a tenth of all steps."""
    schedule: Literal["constant", "cosine"] = "constant"
    """What the learning rate does after the warm-up, until the last step of the last epoch."""
    final_fraction: float = Field(default=0.0, ge=0, le=1)
    """Where the cosine ends, as a fraction of the peak."""
    table_optimizer: Literal["adam", "rowwise_adagrad"] = "adam"
    """For embedding tables: `adam` on the rows of the batch, or `rowwise_adagrad`, which keeps one number per row."""
    table_lr: float | None = Field(default=None, gt=0)
    """Peak learning rate of embedding tables; `lr` when absent."""
    table_weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay of the table rows a batch looked up."""
    keep_state: bool = True
    """Keep the optimiser's moments in the run, for a later training `--from` it; with `adam` they are twice as large as
    the weights."""


def lr_factor(config: OptimConfig, step: int, total_steps: int) -> float:
    """Fraction of the peak learning rate at a step (0-based) of `total_steps`."""
    warmup = min(config.warmup_steps, total_steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return config.final_fraction + (1.0 - config.final_fraction) * 0.5 * (1.0 + math.cos(math.pi * progress))


class Optimizer:
    """Moves every trainable parameter of `model`.

    Args:
        model: parameters found anywhere below it; the weights of `EmbeddingTable`s get row-sparse updates. Parameters
            of helpers (a learned task balance) take part when they are wrapped with the model in an `nn.ModuleDict`.
        config: see `OptimConfig`.
        total_steps: steps of the whole training, for the schedule.
    """

    def __init__(self, model: nn.Module, config: OptimConfig, total_steps: int) -> None:
        self.model = model
        self.config = config
        self.total_steps = total_steps
        self.steps = 0
        self._find_parameters()

    def _find_parameters(self) -> None:
        model, config = self.model, self.config
        self.tables = {
            name: TableOptimizer(
                module, config.table_optimizer, config.betas, config.eps, weight_decay=config.table_weight_decay
            )
            for name, module in model.named_modules()
            if isinstance(module, EmbeddingTable) and module.weight.requires_grad
        }
        in_tables = {id(module.weight) for module in model.modules() if isinstance(module, EmbeddingTable)}
        self.dense = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and id(parameter) not in in_tables
        }
        self._adamw: torch.optim.AdamW | None = None
        if self.dense:
            groups = [
                {"params": [p for p in self.dense.values() if p.ndim >= 2], "weight_decay": config.weight_decay},
                {"params": [p for p in self.dense.values() if p.ndim < 2], "weight_decay": 0.0},
            ]
            # fused is a third of foreach's time and a quarter of the plain loop's on the CPU (measured)
            self._adamw = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)

    def to(self, device: torch.device) -> None:
        """Move the model and what is remembered of its steps; parameters are new tensors or the old ones, as PyTorch
        likes.
        """
        if all(parameter.device == device for parameter in self.model.parameters()):
            return
        state = self.state_dict()
        self.model.to(device)
        self._find_parameters()
        self.load_state_dict(state)

    @property
    def lr(self) -> float:
        """Learning rate of dense parameters at the next step."""
        return self.config.lr * lr_factor(self.config, self.steps, self.total_steps)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.model.parameters():
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move the weights by their gradients, averaged over the processes that train together; parameters without a
        gradient stay.

        Raises:
            RecsysError: clipping is on and the gradient is not finite.
        """
        factor = lr_factor(self.config, self.steps, self.total_steps)
        gradients = mean_gradients(self.dense.values(), list(self.tables.values()))
        if self.config.clip_norm > 0:
            self._clip([found for _, found in gradients])
        if self._adamw is not None:
            for group in self._adamw.param_groups:
                group["lr"] = self.config.lr * factor
            self._adamw.step()
        table_lr = self.config.lr if self.config.table_lr is None else self.config.table_lr
        for table, found in gradients:
            table.update(found, table_lr * factor)
        for optimizer in self.tables.values():
            if optimizer.table.spread is not None:
                optimizer.table.spread.update(table_lr * factor)
        self.steps += 1

    def _clip(self, tables: list[RowGradient]) -> None:
        dense = [parameter.grad for parameter in self.dense.values() if parameter.grad is not None]
        parts = [*dense, *(found.values for found in tables)]
        if not parts:
            return
        length = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(parts)))
        if length.device.type != "cpu":  # the host need not know: what is not finite shows in the next losses
            factor = (self.config.clip_norm / length.double()).clamp(max=1.0).to(length.dtype)
            torch._foreach_mul_(parts, factor)
            return
        norm = float(length)
        if not math.isfinite(norm):
            raise RecsysError(
                f"the gradient is {norm} at step {self.steps + 1}; lower lr, or look for extreme values in the data"
            )
        if norm > self.config.clip_norm:
            torch._foreach_mul_(parts, self.config.clip_norm / norm)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything but the configuration, as tensors that share no memory with the optimiser.

        Keys: `steps`, `dense/<parameter>/<slot>`, `table/<module>/<vocabulary>/<slot>`.
        """
        found = {"steps": torch.tensor(self.steps)}
        if self._adamw is not None:
            for name, parameter in self.dense.items():
                for slot, value in self._adamw.state[parameter].items():
                    found[f"dense/{name}/{slot}"] = value.clone()
        for name, table in self.tables.items():
            found.update({f"table/{name}/{key}": value for key, value in table.state().items()})
        return found

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue exactly where `state_dict` was taken.

        Raises:
            RunError: the state belongs to another model.
        """
        self.steps = int(state["steps"])
        self._load(state, grown=False)

    def warm_start(self, state: Mapping[str, Tensor]) -> None:
        """Take up the moments of an earlier training, under a schedule of its own.

        Vocabularies may have grown: old rows keep their state, new rows and new parameters start without.

        Raises:
            RunError: a parameter has another shape, or a vocabulary fewer rows, than in `state`.
        """
        self._load(state, grown=True)

    def _load(self, state: Mapping[str, Tensor], *, grown: bool) -> None:
        known = set(self.dense)
        for key, value in state.items():
            kind, _, rest = key.partition("/")
            name, _, slot = rest.rpartition("/")
            if kind != "dense" or self._adamw is None or (grown and name not in known):
                continue
            if name not in known or (value.ndim > 0 and value.shape != self.dense[name].shape):
                expected = list(self.dense[name].shape) if name in known else "no such parameter"
                raise RunError(
                    f'optimiser state of "{name}" has shape {list(value.shape)}, the model has {expected}; '
                    "it belongs to another model: start without it"
                )
            self._adamw.state[self.dense[name]][slot] = value.clone().to(self.dense[name].device)
        for name, table in self.tables.items():
            prefix = f"table/{name}/"
            own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            table.load(own, grown=grown)
