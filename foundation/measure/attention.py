"""Packed attention over rows of several lengths, forward and backward, by each way that a machine has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from foundation.encoders.attention import ResolvedBackend, attend
from foundation.encoders.packed_attention import PACKED, unavailable, unfit
from foundation.encoders.segments import Segment
from foundation.measure.timing import Speed, measure

WAYS: tuple[ResolvedBackend, ...] = ("sdpa", "explicit", *PACKED)
SHAPES = {"ViT-S": (384, 6), "ViT-B": (768, 12), "ViT-L": (1024, 16)}
"""Width and heads by the name of an encoder."""


@dataclass(frozen=True)
class Work:
    """Attention of one block.

    Attributes:
        name: of the shape.
        width: D of a token.
        heads: attention heads.
        lengths: (rows, tokens of a row) of each segment.
        dtype: of the tokens.
    """

    name: str
    width: int
    heads: int
    lengths: tuple[tuple[int, int], ...]
    dtype: torch.dtype

    @property
    def segments(self) -> list[Segment]:
        """As the trunk has them."""
        return [Segment(rows, tokens) for rows, tokens in self.lengths]


def multi_crop(
    names: Sequence[str], batch: int, dtypes: Sequence[torch.dtype], tokens: Sequence[int] = (197, 37)
) -> list[Work]:
    """Two global and eight local views of each sample, for encoders of these names."""
    lengths = tuple(zip((2 * batch, 8 * batch), tokens, strict=True))
    return [Work(name, *SHAPES[name], lengths, dtype) for dtype in dtypes for name in names]


@dataclass(frozen=True)
class Result:
    """One way on one piece of work.

    Attributes:
        work: what.
        way: how.
        speed: forward and backward; None where it cannot be used.
        problem: why it cannot; else empty.
        error: largest difference of the result from that of ``sdpa`` in float32; None where there is no result.
    """

    work: Work
    way: ResolvedBackend
    speed: Speed | None
    problem: str = ""
    error: float | None = None


def compare(work: Work, device: torch.device, rounds: int = 10, seed: int = 0) -> Iterator[Result]:
    """Each way on one piece of work, the same numbers for all."""
    generator = torch.Generator(device).manual_seed(seed)
    total = sum(segment.length for segment in work.segments)
    exact = torch.randn(total, 3 * work.width, device=device, generator=generator)
    qkv = exact.to(work.dtype).requires_grad_()
    direction = torch.randn(total, work.width, device=device, generator=generator).to(work.dtype)
    with torch.no_grad():
        expected = attend(qkv.detach().float(), work.segments, work.heads, "sdpa")
    for way in WAYS:
        problem = _problem(way, work, device)
        if problem:
            yield Result(work, way, None, problem)
            continue

        def both(way: ResolvedBackend = way) -> None:
            qkv.grad = None
            attend(qkv, work.segments, work.heads, way).backward(direction)

        try:
            mixed = attend(qkv, work.segments, work.heads, way).detach()
            error = (mixed.float() - expected).abs().max().item()
            yield Result(work, way, measure(both, device, rounds), error=error)
        except Exception as failed:  # a kernel of another version, memory: the other ways can still be had
            yield Result(work, way, None, f"{type(failed).__name__}: {str(failed).strip().splitlines()[0][:200]}")


def _problem(way: ResolvedBackend, work: Work, device: torch.device) -> str:
    if way not in PACKED:
        return ""
    if way == "varlen" and work.dtype == torch.float32:
        return "half precision only"
    return unavailable(way, device) or unfit(way, device, work.width // work.heads, trained=True)


def quickest(results: Sequence[Result]) -> list[Result]:
    """Those that can be used, the quickest first."""
    timed = [(one.speed.seconds, place, one) for place, one in enumerate(results) if one.speed is not None]
    return [one for _, _, one in sorted(timed, key=lambda each: each[:2])]


def rule(results: Sequence[Result]) -> str:
    """What follows for ``auto`` from all that was measured: the order of the ways by their geometric mean time."""
    times: dict[tuple[torch.dtype, str], list[float]] = {}
    for one in results:
        if one.speed is not None:
            times.setdefault((one.work.dtype, one.way), []).append(math.log(one.speed.seconds))
    lines = []
    for dtype in dict.fromkeys(key[0] for key in times):
        means = {way: math.exp(sum(logs) / len(logs)) for (kind, way), logs in times.items() if kind == dtype}
        order = sorted(means, key=lambda way: means[way])
        said = ", ".join(f"{way} ({means[way] / means[order[0]]:.2f})" for way in order)
        lines.append(f"{str(dtype).removeprefix('torch.')}: {said}")
    return "; ".join(lines)
