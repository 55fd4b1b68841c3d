"""The losses of the towers by name, each a few lines around its formula.

All but one answer the same question, which item comes next, and differ in what the item is compared with: the whole
catalogue, the other items of the batch, earlier batches, items drawn evenly or by popularity. `exposures` asks what a
ranker asks: whether a shown item was taken.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...base.cited import paper_of
from ...base.device import CPU, to_device
from ...training.loop import Stateful
from .exposures import Exposures
from .full_softmax import estimated_softmax_loss, full_softmax_loss
from .losses import (
    bce_loss,
    bpr_max_loss,
    gbce_loss,
    in_batch_softmax_loss,
    mixed_negative_softmax_loss,
    sampled_softmax_loss,
    top1_max_loss,
)
from .negatives import InclusionSample, NegativeMemory, WeightedSample
from .objective import Compared, TowerLoss, TowerLossConfig, even_draw


class FullSoftmax(TowerLoss, kind="full_softmax"):
    """Softmax over every item met."""

    paper, formula = paper_of(full_softmax_loss), full_softmax_loss
    whole = True

    def __call__(self, compared: Compared) -> Tensor:
        """See `full_softmax_loss`."""
        own = compared.batch.own(compared.batch.targets)
        return full_softmax_loss(compared.users, compared.vectors, own, scale=compared.scale, reduced=compared.reduced)


class InBatch(TowerLoss, kind="in_batch"):
    """Softmax over the items of the batch, and of earlier ones where the memory is used."""

    paper, formula = paper_of(in_batch_softmax_loss), in_batch_softmax_loss

    def __init__(self, config: TowerLossConfig, frequency: Tensor, width: int, device: torch.device = CPU) -> None:
        super().__init__(config, frequency, width, device)
        self.memory = NegativeMemory(config.memory, width, device) if config.memory else None

    @property
    def memories(self) -> Mapping[str, Stateful]:
        """The vectors of earlier batches."""
        return {} if self.memory is None else {"memory": self.memory}

    def __call__(self, compared: Compared) -> Tensor:
        """See `in_batch_softmax_loss`."""
        batch, positives = compared.batch, compared.positives
        log_q = self.frequency[batch.targets].log()
        used = self.memory is not None and compared.steps > self.config.memory_after
        columns = self.memory.columns() if self.memory is not None and used else None
        if self.memory is not None:
            self.memory.push(positives, batch.targets, log_q)
        return in_batch_softmax_loss(
            compared.users,
            positives,
            batch.targets,
            log_q,
            compared.scale,
            memory=columns,
            rows=batch.mine,
            reduced=compared.reduced,
        )


class Mixed(TowerLoss, kind="mixed"):
    """Softmax over the items of the batch and items drawn evenly."""

    paper, formula = paper_of(mixed_negative_softmax_loss), mixed_negative_softmax_loss

    def draw(self, generator: torch.Generator) -> Tensor:
        """Evenly."""
        return even_draw(self.config.negatives, self.num_items, generator)

    def __call__(self, compared: Compared) -> Tensor:
        """See `mixed_negative_softmax_loss`."""
        batch = compared.batch
        return mixed_negative_softmax_loss(
            compared.users,
            compared.positives,
            batch.targets,
            compared.negatives,
            batch.drawn,
            self.frequency[batch.targets],
            self.frequency[batch.drawn],
            self.num_items,
            compared.scale,
            rows=batch.mine,
            reduced=compared.reduced,
        )


class Estimated(TowerLoss, kind="estimated"):
    """Softmax over every item met, its denominator estimated from a sample without replacement."""

    paper, formula = paper_of(estimated_softmax_loss), estimated_softmax_loss

    def __init__(self, config: TowerLossConfig, frequency: Tensor, width: int, device: torch.device = CPU) -> None:
        super().__init__(config, frequency, width, device)
        self.sample = InclusionSample(frequency, config.negatives)
        self.log_inclusion = to_device(self.sample.probability.log().float(), device)  # [n]

    def draw(self, generator: torch.Generator) -> Tensor:
        """Popular items surely."""
        return self.sample.draw(generator)

    def __call__(self, compared: Compared) -> Tensor:
        """See `estimated_softmax_loss`; of several interests, `sampled_softmax_loss` with the same correction."""
        batch, users, scale = compared.batch, compared.users, compared.scale
        positives, targets, log_q = compared.own_positives, batch.own(batch.targets), self.log_inclusion[batch.drawn]
        if users.dim() == 3:  # several interests
            own = {"positive_ids": targets, "negative_ids": batch.drawn}
            return sampled_softmax_loss(users, positives, compared.negatives, scale, negative_log_q=log_q, **own)
        return estimated_softmax_loss(
            users,
            positives,
            compared.negatives,
            log_q,
            targets,
            batch.drawn,
            scale=scale,
            reduced=compared.reduced,
        )


class ByPopularity(TowerLoss):
    """Base of the losses whose items are drawn evenly, or by a power of their popularity."""

    def __init__(self, config: TowerLossConfig, frequency: Tensor, width: int, device: torch.device = CPU) -> None:
        super().__init__(config, frequency, width, device)
        self.sample: WeightedSample | None = None
        if config.popularity > 0:
            self.sample = WeightedSample(frequency, config.negatives, config.popularity)
            self.log_expected = to_device(self.sample.log_expected, device)  # [n]

    def draw(self, generator: torch.Generator) -> Tensor:
        """Evenly, or by a power of the popularity."""
        if self.sample is not None:
            return self.sample.draw(generator)
        return even_draw(self.config.negatives, self.num_items, generator)


class Sampled(ByPopularity, kind="sampled"):
    """Softmax over the positive and the items drawn."""

    paper, formula = paper_of(sampled_softmax_loss), sampled_softmax_loss

    def __call__(self, compared: Compared) -> Tensor:
        """See `sampled_softmax_loss`."""
        batch = compared.batch
        log_q = None if self.sample is None else self.log_expected[batch.drawn]
        users, positives, negatives = compared.users, compared.own_positives, compared.negatives
        return sampled_softmax_loss(users, positives, negatives, compared.scale, negative_log_q=log_q, **_ids(compared))


class PairwiseEntropy(TowerLoss, kind="bce"):
    """Each next event and one drawn item, each pair by itself."""

    paper, formula = paper_of(bce_loss), bce_loss
    pairs = True

    def draw(self, generator: torch.Generator) -> Tensor:
        """Evenly."""
        return even_draw(self.config.negatives, self.num_items, generator)

    def pair_up(self, positions: int, drawn: int, generator: torch.Generator) -> Tensor:
        """Any of them."""
        return torch.randint(drawn, (positions,), generator=generator)

    def __call__(self, compared: Compared) -> Tensor:
        """See `bce_loss`."""
        users, batch = compared.users, compared.batch
        count, device = len(users), users.device
        labels = torch.cat([torch.ones(count, device=device), torch.zeros(count, device=device)])
        beside = compared.negatives[batch.own(batch.paired)]
        items = torch.cat([compared.own_positives, beside])
        return bce_loss(torch.cat([users, users]), items, labels, compared.scale, compared.bias)


class CalibratedEntropy(TowerLoss, kind="gbce"):
    """Each next event and all items drawn, each pair by itself, the positive's probability calibrated."""

    paper, formula = paper_of(gbce_loss), gbce_loss
    pairs = True

    def draw(self, generator: torch.Generator) -> Tensor:
        """Evenly."""
        return even_draw(self.config.negatives, self.num_items, generator)

    def __call__(self, compared: Compared) -> Tensor:
        """See `gbce_loss`; the strength is `1 - t (1 - a)`, a the share of the other items that is drawn."""
        drawn = min(1.0, self.config.negatives / max(1, self.num_items - 1))
        strength = 1.0 - self.config.calibration * (1.0 - drawn)
        users, positives, negatives = compared.users, compared.own_positives, compared.negatives
        return gbce_loss(users, positives, negatives, compared.scale, strength, compared.bias, **_ids(compared))


class BPRMax(ByPopularity, kind="bpr_max"):
    """The chance that the next event is above the hardest of the items drawn."""

    paper, formula = paper_of(bpr_max_loss), bpr_max_loss

    def __call__(self, compared: Compared) -> Tensor:
        """See `bpr_max_loss`."""
        users, positives, negatives = compared.users, compared.own_positives, compared.negatives
        penalty = self.config.score_penalty
        return bpr_max_loss(users, positives, negatives, compared.scale, penalty, **_ids(compared))


class TOP1Max(ByPopularity, kind="top1_max"):
    """The rank that the hardest of the items drawn take from the next event."""

    paper, formula = paper_of(top1_max_loss), top1_max_loss

    def __call__(self, compared: Compared) -> Tensor:
        """See `top1_max_loss`."""
        users, positives, negatives = compared.users, compared.own_positives, compared.negatives
        return top1_max_loss(users, positives, negatives, compared.scale, **_ids(compared))


def _ids(compared: Compared) -> dict[str, Tensor]:
    """Which items are the positives of the positions held here, and which are drawn."""
    batch = compared.batch
    return {"positive_ids": batch.own(batch.targets), "negative_ids": batch.drawn}


class ExposureEntropy(TowerLoss, kind="exposures"):
    """Cross-entropy of the labels of shown items, each with the user as they were before it."""

    paper, summary, formula = Exposures.paper, Exposures.summary, Exposures
    pairs = exposures = True

    def __call__(self, compared: Compared) -> Tensor:
        """See `Exposures`."""
        shown = compared.batch.windows.shown
        assert shown is not None
        users, items = compared.users, compared.positives
        return bce_loss(users, items, shown.labels, compared.scale, compared.bias, shown.weights)
