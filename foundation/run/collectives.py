"""How long a collective takes, and what it sends."""

from __future__ import annotations

import math
from dataclasses import dataclass

from foundation.run.gpus import Card


@dataclass(frozen=True)
class Cost:
    """Of one collective.

    Attributes:
        seconds: from its start to its end.
        link: bytes that one GPU sends to others of its node.
        network: bytes that one GPU sends to other nodes, the mean over the GPUs of a node.
    """

    seconds: float
    link: float
    network: float


@dataclass(frozen=True)
class Group:
    """GPUs that take part in a collective.

    Attributes:
        card: GPU and wires.
        members: in all.
        per_node: how many of them lie in one node, at most.
    """

    card: Card
    members: int
    per_node: int

    @property
    def inside(self) -> int:
        """How many lie in one node."""
        return min(self.members, self.per_node)

    @property
    def nodes(self) -> int:
        """Nodes that they lie in."""
        return math.ceil(self.members / self.inside)

    def gather(self, size: float) -> Cost:
        """All-gather, or reduce-scatter, of a tensor of ``size`` bytes in all, in a ring.

        A ring enters and leaves each node once; NCCL lays as many rings as there are network adapters, so that a node
        sends by all of them.
        """
        start, ring, _ = self._microseconds()
        sent = size * (self.members - 1) / self.members
        return self._cost(sent, ring + start) if self.members > 1 else Cost(0.0, 0.0, 0.0)

    def all_reduce(self, size: float) -> Cost:
        """Sum of a tensor of ``size`` bytes in every member: twice the volume of :meth:`gather`; in a ring, or, where
        that is quicker (small tensors, many nodes), along a tree of the nodes."""
        start, ring, tree = self._microseconds()
        sent = 2 * size * (self.members - 1) / self.members
        return self._cost(sent, min(2 * ring, tree) + start) if self.members > 1 else Cost(0.0, 0.0, 0.0)

    def _cost(self, sent: float, microseconds: float) -> Cost:
        card = self.card
        rates = [self.inside * card.network] if self.nodes > 1 else []
        rates += [card.link] if self.inside > 1 else []
        network = sent / self.inside if self.nodes > 1 else 0.0
        seconds = sent / (min(rates) * 1e9 * card.wire_share) + microseconds * 1e-6
        return Cost(seconds, sent - network, network)

    def _microseconds(self) -> tuple[float, float, float]:
        """Of the start, of all hops of a ring, and of a tree there and back."""
        card, nodes = self.card, self.nodes
        ring = (self.members - nodes) * card.link_microseconds + (nodes if nodes > 1 else 0) * card.network_microseconds
        tree = (self.inside - 1) * card.link_microseconds + math.log2(nodes) * card.network_microseconds
        return card.collective_microseconds, ring, 2 * tree
