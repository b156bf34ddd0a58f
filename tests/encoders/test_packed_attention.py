"""Ways of attention over packed rows: the same numbers, and structures that follow from the layout."""

from __future__ import annotations

import pytest
import torch

from foundation.encoders import packed_attention
from foundation.encoders.attention import RULES, attend, choose_backend
from foundation.encoders.packed_attention import block_mask, layout_of, row_starts, unavailable
from foundation.encoders.positions import PositionConfig
from foundation.encoders.segments import Segment
from foundation.encoders.vit import Config
from foundation.errors import UserError
from foundation.modalities.image import tokenizer

CPU = torch.device("cpu")
LAYOUTS = [
    ((2, 197), (8, 37)),
    ((3, 5),),
    ((1, 1000),),
    ((2, 256), (5, 128), (3, 7)),
    ((1, 128),),
    ((1, 300), (1, 128), (1, 600)),
    ((64, 17), (7, 129)),
]


def qkv_of(segments: list[Segment], width: int = 32, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    total = sum(segment.length for segment in segments)
    return torch.randn(total, 3 * width, generator=generator).to(dtype)


def written_down(layout: tuple[tuple[int, int], ...]) -> torch.Tensor:
    """Number of the row of each token."""
    lengths = [tokens for rows, tokens in layout for _ in range(rows)]
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_block_mask_is_the_one_that_torch_finds_by_looking_at_every_pair(layout):
    from torch.nn.attention.flex_attention import create_block_mask

    row = written_down(layout)
    expected = create_block_mask(lambda b, h, q, k: row[q] == row[k], None, None, len(row), len(row), device="cpu")
    found = block_mask(layout, CPU)
    assert found.shape == expected.shape and found.BLOCK_SIZE == expected.BLOCK_SIZE
    for kind in ("kv", "full_kv", "q", "full_q"):
        numbers, wanted = getattr(found, f"{kind}_num_blocks"), getattr(expected, f"{kind}_num_blocks")
        assert torch.equal(numbers, wanted), kind
        for stretch, number in enumerate(wanted.flatten().tolist()):
            blocks, its = (getattr(mask, f"{kind}_indices")[0, 0, stretch, :number] for mask in (found, expected))
            assert torch.equal(blocks, its), kind
    places = torch.arange(len(row))
    zero = torch.zeros((), dtype=torch.int64)
    assert torch.equal(found.mask_mod(zero, zero, places[:, None], places[None]), row[:, None] == row[None])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_row_starts(layout):
    expected = [0]
    for rows, tokens in layout:
        for _ in range(rows):
            expected.append(expected[-1] + tokens)
    found = row_starts(layout, CPU)
    assert found.tolist() == expected and found.dtype == torch.int32


def test_structures_are_made_once_and_serve_training_behind_a_probe():
    layout = ((3, 11), (2, 4))
    with torch.inference_mode():
        starts, mask = row_starts(layout, CPU), block_mask(layout, CPU)
    assert row_starts(layout, CPU) is starts and block_mask(layout, CPU) is mask
    assert not starts.is_inference() and not mask.kv_indices.is_inference()
    assert block_mask(((3, 11), (2, 5)), CPU) is not mask


def test_empty_segments_are_no_part_of_a_layout():
    assert layout_of([(0, 5), (2, 3), (4, 0)]) == ((2, 3),)


@pytest.mark.parametrize("segments", [[Segment(2, 17), Segment(6, 5)], [Segment(3, 140)]])
@pytest.mark.parametrize("backend", ["flex", "explicit"])
def test_every_way_gives_the_numbers_of_sdpa(segments, backend):
    qkv = qkv_of(segments)
    torch.testing.assert_close(
        attend(qkv, segments, 2, backend), attend(qkv, segments, 2, "sdpa"), rtol=1e-5, atol=1e-5
    )


def test_rows_do_not_see_each_other():
    segments = [Segment(2, 17), Segment(3, 5)]
    qkv = qkv_of(segments)
    before = attend(qkv, segments, 2, "flex")
    qkv[17:34] = 7.0  # the second row
    after = attend(qkv, segments, 2, "flex")
    changed = (after != before).any(1)
    assert changed[17:34].all() and not changed[:17].any() and not changed[34:].any()


def test_rotated_rows_of_several_lengths():
    encoder = Config(
        preset=None, width=32, depth=2, heads=2, size=(32, 32), position=PositionConfig(kind="rotary"),
        tokenizer=tokenizer.Config(patch_size=8), packing="always",
    ).build().eval()  # fmt: skip
    views = [torch.randn(3, 3, 32, 32), torch.randn(5, 3, 16, 16)]
    results = []
    for backend in ("sdpa", "flex", "explicit"):
        for block in encoder.trunk.blocks:
            block.attention.backend = backend
        with torch.no_grad():
            results.append([features.patches for features in encoder(views)])
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(results[2], results[0], rtol=1e-5, atol=1e-5)


def test_padded_rows_are_left_to_sdpa():
    valid = torch.ones(2, 6, dtype=torch.bool)
    valid[1, 4:] = False
    segments = [Segment(2, 6, valid=valid), Segment(1, 3)]
    qkv = qkv_of(segments)
    torch.testing.assert_close(attend(qkv, segments, 2, "flex"), attend(qkv, segments, 2, "sdpa"))


def test_explicit_attention_by_name_has_the_gradients_of_sdpa():
    segments = [Segment(2, 17), Segment(6, 5)]
    results = []
    for backend in ("explicit", "sdpa"):
        qkv = qkv_of(segments).requires_grad_()
        attend(qkv, segments, 2, backend).square().sum().backward()
        results.append(qkv.grad)
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_flex_says_that_it_cannot_train_on_a_cpu():
    segments = [Segment(2, 17), Segment(6, 5)]
    qkv = qkv_of(segments).requires_grad_()
    with pytest.raises(UserError, match="flex cannot be used: it has no backward pass on a CPU; use sdpa or auto"):
        attend(qkv, segments, 2, "flex")
    with torch.no_grad():
        assert attend(qkv, segments, 2, "flex").isfinite().all()


@pytest.mark.parametrize("backend", ["xformers", "varlen"])
def test_a_way_that_needs_a_gpu_says_so(backend):
    with pytest.raises(
        UserError, match=f"{backend} needs a CUDA GPU, but the tokens are on 'cpu', or use sdpa or auto"
    ):
        choose_backend(backend, CPU)


def test_an_old_gpu_and_an_old_torch_are_named(monkeypatch):
    device = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "8.0 or newer, not 7.5" in unavailable("varlen", device)
    monkeypatch.setattr(packed_attention, "_varlen", lambda: None)
    assert "use torch 2.10 or newer" in unavailable("varlen", device)
    monkeypatch.setattr(packed_attention, "_flex", lambda: None)
    assert "use torch 2.10 or newer" in unavailable("flex", device)


def test_auto_follows_the_rule():
    assert choose_backend("auto", CPU, dtype=torch.bfloat16) == "explicit"
    assert choose_backend("auto", CPU, dtype=torch.float32) == "sdpa"
    assert choose_backend("auto", torch.device("cuda"), segments=1) == "sdpa"
    assert choose_backend("auto", torch.device("meta")) == "sdpa"
    assert all(rule.order[-1] == "sdpa" and rule.source for rule in RULES), "what is everywhere comes last"


def test_sdpa_by_name_is_torchs_own_kernel_in_half_precision_too(monkeypatch):
    from foundation.encoders import attention

    segments = [Segment(2, 17)]
    qkv = qkv_of(segments, dtype=torch.bfloat16)
    query, key, value = (part.transpose(1, 2) for part in qkv.view(2, 17, 3, 2, 16).unbind(2))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    assert torch.equal(attend(qkv, segments, 2, "sdpa"), expected.transpose(1, 2).reshape(34, 32))
    assert not attention._written_out(qkv, 17, "sdpa") and attention._written_out(qkv, 17)


@pytest.mark.slow
def test_the_compiled_kernel_leaves_out_what_the_block_mask_says():
    """Uncompiled, FlexAttention looks at single tokens; the kernel reads which blocks are empty and which whole."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)  # a CPU's kernel of changing sizes does not build in 2.14
    for layout in (((2, 197), (8, 37)), ((1, 300), (1, 128), (1, 600))):
        segments = [Segment(rows, tokens) for rows, tokens in layout]
        qkv = qkv_of(segments)
        query, key, value = (part.transpose(0, 1)[None] for part in qkv.view(len(qkv), 3, 2, 16).unbind(1))
        with torch.no_grad():
            mixed = compiled(query, key, value, block_mask=block_mask(layout, CPU))
        found = mixed[0].transpose(0, 1).flatten(1)
        torch.testing.assert_close(found, attend(qkv, segments, 2, "sdpa"), rtol=1e-5, atol=1e-5)
