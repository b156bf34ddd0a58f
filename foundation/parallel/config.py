"""The recipe's ``parallel`` section: how the processes of a run share memory and work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from foundation.errors import UserError
from foundation.ranges import Count, Range, check


@dataclass(frozen=True, kw_only=True)
class Config:
    """How the processes of a run share weights and work. The numbers are those of one process, whatever it says: a run
    may go on with another section than it was begun with."""

    data: Literal["ddp", "fsdp", "hsdp", "fairscale"] = "ddp"
    """``ddp``: each process holds everything. ``fsdp``: weights, gradients, moments and averages are sharded over all
    processes and gathered block by block (FSDP2). ``hsdp``: sharded over ``shard`` processes, and as many copies as
    that leaves. ``fairscale``: moments and gradients are sharded, weights are not (OSS and ShardedDataParallel)."""
    shard: Count | None = None
    """Of ``hsdp``: processes that share one copy of the weights; null: those of one node."""
    reshard: bool = True
    """Sharded weights are freed behind the forward pass and gathered again for the backward pass. False keeps them:
    more memory, a third less to send."""
    prefetch: Annotated[int, Range(0, 16)] = 1
    """Blocks that are gathered ahead of the one that computes."""
    weights: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision in which sharded weights are gathered and compute; gradients are reduced in float32 always, and
    objectives that learn keep it. ``auto``: that of ``train.precision``."""
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    """What a block keeps for the backward pass: everything; the results of matrix products and attention, which
    computes the rest anew (``selective``); its input alone (``full``: least memory, a third more work)."""
    meta_init: bool = False
    """Process 0 alone makes the first weights and sends them to the others, which need no memory for them before. The
    weights are the same."""

    def __post_init__(self) -> None:
        check(self, "parallel")
        choices = {
            "data": ("ddp", "fsdp", "hsdp", "fairscale"),
            "weights": ("auto", "float32", "bfloat16"),
            "activation_checkpointing": ("none", "selective", "full"),
        }
        for name, words in choices.items():
            if getattr(self, name) not in words:
                raise UserError(f"parallel.{name} must be one of {', '.join(words)}, got {getattr(self, name)!r}")
        if self.shard is not None and self.data != "hsdp":
            raise UserError(f"parallel.shard is for data: hsdp, and data is {self.data}")

    def shares(self, processes: int, per_node: int) -> int:
        """Processes that share one copy of the weights.

        Args:
            processes: of the run.
            per_node: of one node.

        Raises:
            UserError: they cannot be divided like this.
        """
        if processes == 1 or not self.sharded:
            return 1
        shares = processes if self.data == "fsdp" else self.shard or min(per_node, processes)
        if processes % shares:
            raise UserError(
                f"parallel.shard is {shares} (null: the processes of one node), and {processes} processes are no "
                "multiple of it: set parallel.shard to a divisor"
            )
        return shares

    @property
    def sharded(self) -> bool:
        """Whether weights lie in shards where there are several processes."""
        return self.data in ("fsdp", "hsdp")
