"""ESMM, the entire-space model: conversion after click, learned over all impressions (Ma et al., arXiv 1804.07931).

Two networks on shared embeddings give logits a (click) and b (conversion given click). The loss, over all impressions
with click y and conversion z, is `l(y, pCTR) + l(y z, pCTR pCVR)`: the predictions are multiplied, never the losses,
and pCVR has no loss of its own. So conversions are learned where they will be predicted (no sample-selection bias),
and the many clicks train the tables that the few conversions need.

`sigmoid(c) = sigmoid(a) sigmoid(b)` holds exactly for `c = -logsumexp(-a, -b, -a-b)`, on which the second loss is
stable. Shapes: x [R, D] -> a, b, c [R]. Siblings: the shared bottom learns conversions on clicked rows; ESCM2 adds a
de-biased loss for pCVR.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from ...base.errors import ConfigError
from ...data.batch import Batch, Layout
from ...data.schema import TaskSpec
from ...nn.features import SideFields
from ...nn.split import SplitInput
from ..layers import Tower
from ..losses import LossConfig, masked_mean, multi_task_loss, product_logit, row_losses, sample_spaces, weight_of
from ..ranker import Ranker, RankerConfig


class ESMMConfig(RankerConfig):
    """Keys of `kind = "esmm"`."""

    kind: str = "esmm"
    """Which ranker."""
    click: str = "click"
    """Task y, known on every impression."""
    conversion: str = "conversion"
    """Task z, declared with `where` = the click task: its logit is pCVR's, valid for any impression."""
    product: str = ""
    """A task labelled y z on every impression, if the data has one: its logit is the product's, and its label the
    second loss's. Without it the label is made from the other two."""
    ctr_hidden: tuple[int, ...] = (128, 64)
    """Widths of the click network (360, 200, 80 in the paper)."""
    cvr_hidden: tuple[int, ...] | None = None
    """Widths of the conversion network; the click network's when not given, as in the paper."""
    pooling: Literal["concat", "field_sum"] = "concat"
    """`field_sum` adds up the embeddings of each side's fields before concatenating the sides and their numbers."""


class ESMM(Ranker, kind="esmm"):
    """Click and conversion networks; tasks beside these two have a plain tower."""

    paper = "Ma et al. SIGIR 2018, arXiv 1804.07931"
    summary = "conversion over all impressions through the product pCTR x pCVR"
    Config = ESMMConfig

    def __init__(self, config: ESMMConfig, layout: Layout, tasks: Sequence[TaskSpec]) -> None:
        super().__init__(config, layout, tasks)
        self.esmm = config
        binary = [task.name for task in tasks if task.kind == "binary"]
        wanted = [config.click, config.conversion, *([config.product] if config.product else [])]
        if missing := [name for name in wanted if name not in binary]:
            raise ConfigError(
                f"{config.kind} needs binary tasks {wanted} and finds no {missing} among {binary}; "
                "set click, conversion and product to your tasks' names"
            )
        mixes = config.input.joint_gate.enabled or config.input.cross_layers or config.input.interaction.kind != "none"
        if config.pooling == "field_sum" and mixes:
            raise ConfigError(
                'pooling = "field_sum" leaves no fields to a joint gate, cross layers or interactions; switch them off'
            )
        sizes = {config.click: config.ctr_hidden, config.conversion: self.cvr_hidden}
        self.towers = nn.ModuleDict(
            {
                task.name: Tower(
                    self.width,
                    config.towers.get(task.name, sizes.get(task.name, config.tower_hidden)),
                    dropout=config.dropout,
                    hidden_gate=config.hidden_gate,
                )
                for task in tasks
                if task.name != config.product
            }
        )

    @property
    def cvr_hidden(self) -> tuple[int, ...]:
        """Widths of the conversion network."""
        return self.esmm.ctr_hidden if self.esmm.cvr_hidden is None else self.esmm.cvr_hidden

    @property
    def width(self) -> int:
        """Width of the networks' input."""
        if self.esmm.pooling == "concat":
            return self.inputs.width
        encoder = self.inputs.encoder
        return 2 * encoder.table.dim + encoder.query.num_dense + encoder.item.num_dense

    def embed(self, batch: Batch) -> SplitInput:
        """Batch of R rows -> model input, fields concatenated or summed per side."""
        if self.esmm.pooling == "concat":
            return super().embed(batch)

        def pooled(side: SideFields) -> SideFields:
            return replace(side, fields=side.fields.sum(1, keepdim=True))

        encoded = self.inputs.encode(batch)
        return replace(encoded, query=pooled(encoded.query), item=pooled(encoded.item)).split()

    def logits(self, x: SplitInput) -> dict[str, Tensor]:
        """Model input of R rows -> task -> logit [R]; the conversion's is that of pCVR."""
        found: dict[str, Tensor] = {name: tower(x) for name, tower in self.towers.items()}
        if self.esmm.product:
            found[self.esmm.product] = self.product(found)
        return {task.name: found[task.name] for task in self.tasks}

    def product(self, logits: dict[str, Tensor]) -> Tensor:
        """Logit of pCTCVR = pCTR pCVR, [R]."""
        return product_logit(logits[self.esmm.click], logits[self.esmm.conversion])

    def set_base_rates(self, rates: Mapping[str, float]) -> None:
        """See `Ranker.set_base_rates`; the product has no tower, its rate follows from its factors."""
        super().set_base_rates({task: rate for task, rate in rates.items() if task != self.esmm.product})

    def losses(self, batch: Batch, config: LossConfig) -> dict[str, Tensor]:
        """`loss/<click>` on all impressions, `loss/<conversion>` on the product over all impressions."""
        return self.entire_space_losses(self(batch), batch, config)

    def entire_space_losses(self, logits: dict[str, Tensor], batch: Batch, config: LossConfig) -> dict[str, Tensor]:
        """The two terms of equation 3, and the usual loss of every other task.

        Raises:
            ConfigError: positives of the conversion are weighted, though it has no loss of its own.
        """
        if self.esmm.conversion in config.positive_weight:
            mend = f'weigh "{self.esmm.product}"' if self.esmm.product else "weigh rows by data.weights"
            raise ConfigError(
                f'positive_weight names "{self.esmm.conversion}", which has no loss of its own in {self.esmm.kind}; '
                f"{mend}"
            )
        losses = multi_task_loss(logits, batch, self.tasks, config)
        del losses[f"loss/{self.esmm.conversion}"]  # pCVR has no loss of its own
        if not self.esmm.product:
            label, space, weight = self.end_to_end(batch)
            error = row_losses(self.product(logits), label, "binary")
            losses[f"loss/{self.esmm.conversion}"] = masked_mean(error, space, weight, config.reduction)
        return losses

    def end_to_end(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Label y z [R], the impressions on which it is known [R], and the rows' weights in the conversion."""
        labels, masks, weight = sample_spaces(batch)
        names = [task.name for task in self.tasks]
        click, conversion = names.index(self.esmm.click), names.index(self.esmm.conversion)
        clicked = masks[:, click] & (torch.where(masks[:, click], labels[:, click], 0.0) > 0.5)
        known = clicked & masks[:, conversion]
        label = torch.where(known, labels[:, conversion], 0.0)
        return label, masks[:, click] & (known | ~clicked), weight_of(weight, conversion)
