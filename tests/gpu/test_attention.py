"""Every way of packed attention on a GPU against the formula in float64, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from foundation.encoders.attention import ResolvedBackend, attend, choose_backend
from foundation.encoders.packed_attention import PACKED, PackedBackend, unavailable
from foundation.encoders.positions import PositionConfig
from foundation.encoders.segments import Segment
from foundation.encoders.vit import Config
from foundation.modalities.image import tokenizer

pytestmark = pytest.mark.gpu

LAYOUTS = {
    "views of two sizes": ((4, 197), (16, 37)),
    "one size": ((3, 65),),
    "not a multiple of any block": ((1, 129), (5, 3), (2, 250)),
    "rows that drop path keeps": ((3, 197), (11, 37)),
}
HEADS, HEAD_WIDTH = 4, 64


def need(backend: ResolvedBackend, device: torch.device) -> None:
    """Skip where the machine does not have a way."""
    if backend in PACKED and (problem := unavailable(backend, device)):
        pytest.skip(problem)


def formula(qkv: Tensor, layout: tuple[tuple[int, int], ...]) -> Tensor:
    """Softmax attention row by row, [T, 3 * D] -> [T, D]."""
    results, start = [], 0
    for rows, tokens in layout:
        part = qkv[start : start + rows * tokens].view(rows, tokens, 3, HEADS, HEAD_WIDTH)
        query, key, value = part.permute(2, 0, 3, 1, 4)
        mixed = (query @ key.transpose(-1, -2) * HEAD_WIDTH**-0.5).softmax(-1) @ value
        results.append(mixed.transpose(1, 2).reshape(rows * tokens, -1))
        start += rows * tokens
    return torch.cat(results)


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found.detach().double() - expected.detach()).norm() / expected.detach().norm())


@pytest.mark.parametrize(
    ("dtype", "layout"),
    [*((torch.bfloat16, layout) for layout in LAYOUTS.values()), (torch.float32, LAYOUTS["views of two sizes"])],
    ids=[*LAYOUTS, "float32"],
)
@pytest.mark.parametrize("backend", ["sdpa", "explicit", *PACKED])
def test_result_and_gradient_are_those_of_the_formula(
    backend: ResolvedBackend, dtype: torch.dtype, layout: tuple[tuple[int, int], ...], device: torch.device, exact: None
) -> None:
    need(backend, device)
    generator = torch.Generator(device).manual_seed(0)
    total = sum(rows * tokens for rows, tokens in layout)
    # Fresh random numbers, rounded to the precision of the test, so that both sides begin with the same.
    start = torch.randn(total, 3 * HEADS * HEAD_WIDTH, device=device, generator=generator).to(dtype)
    direction = torch.randn(total, HEADS * HEAD_WIDTH, device=device, generator=generator).to(dtype)
    qkv, exactly = start.clone().requires_grad_(), start.double().requires_grad_()
    mixed = attend(qkv, [Segment(rows, tokens) for rows, tokens in layout], HEADS, backend)
    expected = formula(exactly, layout)
    (gradient,) = torch.autograd.grad(mixed, qkv, direction)
    (wanted,) = torch.autograd.grad(expected, exactly, direction.double())
    limit = 2e-2 if dtype == torch.bfloat16 else 2e-3  # flex computes float32 products by TF32 where it may
    assert mixed.dtype == dtype and distance(mixed, expected) < limit
    assert gradient.isfinite().all() and distance(gradient, wanted) < limit


@pytest.mark.parametrize("backend", PACKED)
def test_rotated_rows_and_a_teacher_without_gradients(backend: PackedBackend, device: torch.device) -> None:
    need(backend, device)
    encoder = Config(
        preset=None, width=HEADS * HEAD_WIDTH, depth=2, heads=HEADS, size=(64, 64), packing="always",
        tokenizer=tokenizer.Config(patch_size=8), position=PositionConfig(kind="rotary"),
    ).build().to(device)  # fmt: skip
    views = [torch.randn(4, 3, 64, 64, device=device), torch.randn(10, 3, 24, 24, device=device)]
    results, gradients = [], []
    for way in ("sdpa", backend):
        for block in encoder.trunk.blocks:
            block.attention.backend = way
        encoder.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            with torch.no_grad():
                results.append([features.patches.double() for features in encoder(views)])
            loss = sum(features.patches.float().square().mean() for features in encoder(views))
        loss.backward()
        gradients.append(encoder.trunk.blocks[0].attention.qkv.weight.grad.double())
    for found, expected in zip(results[1], results[0], strict=True):
        assert distance(found, expected) < 2e-2
    assert distance(gradients[1], gradients[0]) < 5e-2


def test_auto_is_a_way_that_works(device: torch.device) -> None:
    chosen = choose_backend("auto", device, dtype=torch.bfloat16)
    qkv = torch.randn(4 * 197 + 16 * 37, 3 * 256, device=device, dtype=torch.bfloat16, requires_grad=True)
    segments = [Segment(4, 197), Segment(16, 37)]
    found = attend(qkv, segments, 4)
    assert torch.equal(found, attend(qkv, segments, 4, chosen))
    found.float().sum().backward()
    assert qkv.grad.isfinite().all()


def test_varlen_serves_a_probe_in_float32_by_sdpa(device: torch.device) -> None:
    need("varlen", device)
    qkv = torch.randn(34, 3 * 256, device=device)
    assert torch.equal(attend(qkv, [Segment(2, 17)], 4, "varlen"), attend(qkv, [Segment(2, 17)], 4, "sdpa"))
