"""What a GPU and the wires around it can do: the constants of a plan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from foundation import config
from foundation.errors import UserError
from foundation.plugins import near
from foundation.ranges import Count, Positive, Range, check

Share = Annotated[float, Range(0, 1, above=True)]


@dataclass(frozen=True, kw_only=True)
class Card:
    """A GPU in its node. Rates are those of the data sheet; shares say how much of them a training step reaches."""

    name: str
    """For tables."""
    bf16: Positive
    """Dense bfloat16 matrix products, TFLOP/s."""
    fp32: Positive
    """Float32 matrix products without TF32, TFLOP/s."""
    memory: Positive
    """GiB that a process can allocate, as ``nvidia-smi`` shows it."""
    bandwidth: Positive
    """Of its memory, GB/s."""
    link: Positive
    """To the GPUs of its node, GB/s in one direction (NVLink; else PCIe)."""
    network: Positive
    """To other nodes, GB/s for each GPU in one direction."""
    per_node: Count = 8
    """GPUs of a node."""
    matrix_share: Share = 0.66
    """Of ``bf16``, in large matrix products."""
    attention_share: Share = 0.25
    """Of ``bf16``, in fused attention, forward and backward."""
    bandwidth_share: Share = 0.8
    """Of ``bandwidth``, in elementwise operators."""
    wire_share: Share = 0.8
    """Of ``link`` and ``network``, in large collectives."""
    host_microseconds: Positive = 8.7
    """Of the processor, for each operator that Python calls or autograd calls back."""
    kernel_microseconds: Positive = 2.0
    """Shortest time of a kernel on the GPU."""
    link_microseconds: Positive = 1.9
    """Of one hop of a collective inside a node."""
    network_microseconds: Positive = 4.0
    """Of one hop of a collective between nodes."""
    collective_microseconds: Positive = 12.0
    """Of the start of a collective."""
    unevenness: Annotated[float, Range(0, 1)] = 0.01
    """Standard deviation of the step time from GPU to GPU, as a share: all wait for the slowest."""
    reserved: Positive = 1.5
    """GiB that CUDA, its libraries and NCCL take for themselves."""
    fragmentation: Annotated[float, Range(0, 1)] = 0.05
    """Memory that the allocator holds beyond what lives, as a share of it."""

    def __post_init__(self) -> None:
        check(self, "gpu")


_H100 = Card(name="H100 SXM", bf16=989, fp32=67, memory=79.6, bandwidth=3350, link=450, network=50)
_A100 = Card(
    name="A100 SXM 80 GB", bf16=312, fp32=19.5, memory=80, bandwidth=2039, link=300, network=25,
    matrix_share=0.8, attention_share=0.45,
)  # fmt: skip
CARDS = {
    "h100": _H100,
    "h200": replace(_H100, name="H200 SXM", memory=140.4, bandwidth=4800),
    "b200": Card(name="B200", bf16=2250, fp32=75, memory=179, bandwidth=7700, link=900, network=50),
    "a100": _A100,
    "a100-40": replace(_A100, name="A100 SXM 40 GB", memory=40, bandwidth=1555),
    "l40s": Card(name="L40S", bf16=362, fp32=91.6, memory=45.0, bandwidth=864, link=32, network=25, per_node=8),
    "rtx4090": Card(name="RTX 4090", bf16=165, fp32=82.6, memory=24.0, bandwidth=1008, link=32, network=12.5),
}
"""By the word of ``--gpu``. Rates: NVIDIA's data sheets (dense, without sparsity); networks: those of DGX systems, one
adapter of 400 Gb/s (Hopper, Blackwell) or 200 Gb/s (Ampere) for each GPU. Shares, and microseconds of the host:
assumed, see ``docs/scaling.md``. Hops and start of a collective: the table by which NCCL itself chooses an algorithm
(``src/graph/tuning.cc``, ring, LL128)."""


def card(name: str) -> Card:
    """A card by its name, or a YAML file with the fields of :class:`Card`, such as what was measured on one's own.

    Raises:
        UserError: no such card; a file that cannot be read.
    """
    if name in CARDS:
        return CARDS[name]
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"no GPU {name!r}{near(name, CARDS)}; there are {', '.join(CARDS)}, or give a YAML file")
    if not path.is_file():
        raise UserError(f"--gpu {name}: no such file")
    return config.load(Card, path)
