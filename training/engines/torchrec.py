"""What the engine `torchrec` asks of TorchRec: rows of vocabularies that lie in pieces, weighted sums of them, updates.

A lookup fetches rows from the processes that hold them, without a gradient. An update looks the rows of a step up once
more, each once, and sends their gradients back: FBGEMM sums what the processes say of a row and moves it in its
backward pass, by row-wise Adagrad as `training.sparse` has it.

TorchRec and FBGEMM are no requirement of the package, and are imported with this file (docs/scale.md).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from torchrec import (
        EmbeddingBagCollection,
        EmbeddingBagConfig,
        EmbeddingCollection,
        EmbeddingConfig,
        KeyedJaggedTensor,
    )
    from torchrec.distributed import DistributedModelParallel
    from torchrec.distributed.comm_ops import get_gradient_division
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
    from torchrec.distributed.planner.types import PlannerError
    from torchrec.distributed.types import ShardingEnv

from ...base import ranks
from ...base.errors import RunError
from ...base.memory import available_memory
from ...nn.embedding import EmbeddingTable
from ..sparse import TableOptimizer
from .pieces import Piece

BLOCK = 1 << 22
"""Numbers of a table that travel at a time when it is put together again."""
SLOT = "momentum1"
"""What FBGEMM calls the running sum of row-wise Adagrad."""
# A gradient is then the mean over the processes, as that of everything else (`engines.local`).
assert get_gradient_division()


class Collection:
    """Vocabularies of one table in TorchRec: looked up row by row, or summed by bags.

    Attributes:
        vocabularies: in the order in which rows are asked for.
        weights: by vocabulary, the rows that lie in this process.
        slots: their running sums.
    """

    def __init__(self, optimizer: TableOptimizer, vocabularies: Sequence[str], shard: str, *, pooling: bool) -> None:
        self.vocabularies, self.pooling, self.width = list(vocabularies), pooling, optimizer.table.dim
        self.keys = {v: f"t{place}" for place, v in enumerate(vocabularies)}  # theirs may hold dots
        table = optimizer.table
        self.model = self._modelled(table, shard, optimizer.eps)
        prefix = "embedding_bags" if pooling else "embeddings"
        tensors = self.model.module.state_dict()
        states = self.model.fused_optimizer.state_dict()["state"]
        self.ranges: dict[str, list[tuple[int, int, int]]] = {}  # first row, one past the last, rank
        self.weights: dict[str, Piece] = {}
        self.slots: dict[str, Piece] = {}
        even = shard == "row_wise"
        for v, key in self.keys.items():
            name = f"{prefix}.{key}.weight"
            self.ranges[v] = _ranges(tensors[name])
            start, own = _own(tensors[name])
            square = _own(states[name][f"{key}.{SLOT}"])[1] if name in states else None  # those that lie here alone
            own = table.weight.new_empty(0, self.width) if own is None else own.detach()
            square = table.weight.new_empty(0) if square is None else square.detach().view(-1)
            self.weights[v] = Piece(own, start, table.sizes[v], even)
            self.slots[v] = Piece(square, start, table.sizes[v], even)
            first = table.offsets[v] + start
            with torch.no_grad():
                own.copy_(table.weight[first : first + len(own)])
                square.copy_(optimizer.slots["square"][first : first + len(own)])

    def _modelled(self, table: EmbeddingTable, shard: str, eps: float) -> Any:
        kind, collection = (
            (EmbeddingBagConfig, EmbeddingBagCollection) if self.pooling else (EmbeddingConfig, EmbeddingCollection)
        )
        given = {"is_weighted": True} if self.pooling else {}
        tables = [
            kind(name=key, num_embeddings=table.sizes[v], embedding_dim=self.width, feature_names=[key])
            for v, key in self.keys.items()
        ]
        model = collection(tables=tables, device=torch.device("meta"), **given)
        fused = {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": 0.0, "eps": eps}
        sharder: Any = (EmbeddingBagCollectionSharder if self.pooling else EmbeddingCollectionSharder)(fused)
        # TorchRec offers row-wise bags to GPUs alone; gloo sums and scatters as well (torch 2.13).
        sharder.sharding_types = lambda _: ["table_wise", "row_wise"]
        there = ranks.beside()
        room = available_memory() // there
        topology = Topology(ranks.world(), "cpu", ddr_cap=room, local_world_size=there)
        asked = ParameterConstraints(sharding_types=[shard], compute_kernels=["fused"])
        planner = EmbeddingShardingPlanner(topology=topology, constraints=dict.fromkeys(self.keys.values(), asked))
        assert dist.group.WORLD is not None
        try:
            plan = planner.collective_plan(model, [sharder], dist.group.WORLD)
        except PlannerError as error:
            size = sum(table.sizes[v] for v in self.vocabularies) * (self.width + 1) * 4
            raise RunError(
                f"TorchRec finds no place for tables of {size / 1e9:.1f} GB in {ranks.world()} processes with "
                f"{room / 1e9:.1f} GB of memory each; start more of them, on more machines"
            ) from error
        return DistributedModelParallel(
            model,
            env=ShardingEnv.from_process_group(dist.group.WORLD),
            device=torch.device("cpu"),
            plan=plan,
            sharders=[sharder],
            init_data_parallel=False,
        )

    def rows(self, numbers: Sequence[Tensor]) -> list[Tensor]:
        """Rows of each vocabulary, int64 [n_v] -> float [n_v, K]; with the way back to FBGEMM's update."""
        self._note(numbers, 8 + 4 * self.width)
        if not self.pooling:
            found = _arrived(self.model(self._asked(numbers, torch.tensor([len(part) for part in numbers]))))
            return [found[key].values() for key in self.keys.values()]
        longest = max(len(part) for part in numbers)
        lengths = [(torch.arange(longest) < len(part)).long() for part in numbers]  # bags of one, and of none
        pooled = self._summed(numbers, lengths, [torch.ones(len(part)) for part in numbers])
        return [pooled[key][: len(part)] for key, part in zip(self.keys.values(), numbers, strict=True)]

    def pooled(self, numbers: Sequence[Tensor], lengths: Sequence[Tensor], shares: Sequence[Tensor]) -> Tensor:
        """Weighted sums over all vocabularies of each of R lines: float [R, K].

        Args:
            numbers: of each vocabulary, its rows line by line.
            lengths: how many of them each line has, int64 [R].
            shares: the weight of each.
        """
        self._note(numbers, 12)
        ranks.note_sent((ranks.world() - 1) * lengths[0].numel() * 4 * self.width * len(lengths))
        return torch.stack(list(self._summed(numbers, lengths, shares).values())).sum(0)

    def move(self, numbers: Sequence[Tensor], gradients: Sequence[Tensor], lr: float) -> None:
        """Row-wise Adagrad by the gradients of distinct rows, summed over the processes and divided by their number."""
        optimizer = self.model.fused_optimizer
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()  # hands on the rate; what moves is moved on the way back
        with torch.enable_grad():
            found = torch.cat(self.rows(numbers))
            found.backward(torch.cat(list(gradients)))
        self._note(numbers, 4 * self.width)

    def gather(self, vocabulary: str, own: Tensor, whole: Tensor) -> None:
        """Fill a whole tensor in every process from the pieces, a block at a time."""
        step = max(1, BLOCK // max(1, whole[:1].numel()))
        mine = self.weights[vocabulary].start
        for first, stop, rank in self.ranges[vocabulary]:
            for start in range(first, stop, step):
                end = min(start + step, stop)
                block = whole.new_empty(end - start, *whole.shape[1:])
                if rank == ranks.rank():
                    block.copy_(own[start - mine : end - mine])
                dist.broadcast(block, rank)
                whole[start:end] = block

    def _summed(
        self, numbers: Sequence[Tensor], lengths: Sequence[Tensor], shares: Sequence[Tensor]
    ) -> Mapping[str, Tensor]:
        lines = len(lengths[0])
        most = int(ranks.gathered(torch.tensor([lines])).max())  # gloo scatters sums of equal shapes alone
        padded = torch.cat([F.pad(part, (0, most - lines)) for part in lengths])
        found: Mapping[str, Tensor] = _arrived(
            self.model(self._asked(numbers, padded, torch.cat(list(shares))))
        ).to_dict()
        return {key: found[key][:lines] for key in self.keys.values()}

    def _asked(self, numbers: Sequence[Tensor], lengths: Tensor, shares: Tensor | None = None) -> Any:
        keys, values = list(self.keys.values()), torch.cat(list(numbers))
        return KeyedJaggedTensor(keys, values, shares, lengths=lengths.int())

    def _note(self, numbers: Sequence[Tensor], size: int) -> None:
        """Count `size` bytes for every row that lies in another process."""
        for v, rows in zip(self.vocabularies, numbers, strict=True):
            piece = self.weights[v]
            away = (rows < piece.start) | (rows >= piece.start + len(piece.own))
            ranks.note_sent(int(away.sum()) * size)


def _arrived(found: Any) -> Any:
    return found.wait() if hasattr(found, "wait") else found


def _ranges(tensor: Any) -> list[tuple[int, int, int]]:
    """Rows of a sharded tensor by rank: first, one past the last, rank."""
    shards = tensor.metadata().shards_metadata
    spans = [(s.shard_offsets[0], s.shard_offsets[0] + s.shard_sizes[0], s.placement.rank()) for s in shards]
    return sorted(span for span in spans if span[1] > span[0])


def _own(tensor: Any) -> tuple[int, Tensor | None]:
    """First row and the rows of a sharded tensor that lie here."""
    shards = tensor.local_shards()
    return (shards[0].metadata.shard_offsets[0], shards[0].tensor) if shards else (0, None)
