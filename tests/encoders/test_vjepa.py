"""Our video encoder computes what V-JEPA 2's did (golden file 20); tokens left out under rotary positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foundation.branches.base import EncoderBranch
from foundation.branches.request import Request
from foundation.encoders import vit
from foundation.encoders.positions import PositionConfig, RotaryPositions
from foundation.errors import UserError
from foundation.modalities.video import tokenizer
from foundation.types import Batch, TokenMask, View
from foundation.zoo.convert import vjepa2
from tests.encoders.inputs import inputs
from tests.encoders.reference_names import our_weights
from tests.encoders.test_parity import FORWARD, GRADIENT, close

POSITION = PositionConfig(kind="rotary", base=10000.0, normalise="none")


def published(arrays: dict[str, np.ndarray]) -> vit.Encoder:
    state = {k.removeprefix("param/"): torch.from_numpy(v) for k, v in arrays.items() if k.startswith("param/")}
    side, frames = int(arrays["arg/img_size"]), int(arrays["arg/num_frames"])
    source = vjepa2.Config(heads=int(arrays["arg/num_heads"]), frames=frames, size=side)
    assert source.matches(state)
    made = source.convert(state)
    encoder = made.encoder.build()
    encoder.load_state_dict(made.tensors)
    return encoder.eval()


@pytest.fixture(scope="module")
def arrays(golden):
    return golden("20_vjepa2_encoder")


@pytest.mark.parametrize(("clip", "tokens"), [("video", "full"), ("nonsquare/video", "nonsquare")])
def test_whole_clips(arrays, clip, tokens):
    (features,) = published(arrays)([torch.from_numpy(arrays[f"input/{clip}"])])
    close(features.patches, arrays[f"output/{tokens}/tokens"], FORWARD)


def test_clips_seen_in_part_under_two_masks_in_one_pass(arrays):
    encoder, video = published(arrays), torch.from_numpy(arrays["input/video"])
    seen = [torch.from_numpy(arrays[f"input/mask{j}/encoder"]) for j in (0, 1)]
    count = arrays["output/full/tokens"].shape[1]
    hidden = [torch.ones(2, count, dtype=torch.bool).scatter(1, part, False) for part in seen]
    features = encoder(inputs([video, video], hidden, drop=[count - part.shape[1] for part in seen]))
    total = torch.zeros(())
    for j, (part, found) in enumerate(zip(seen, features, strict=True)):
        visible = found.patches.gather(1, part[..., None].expand(-1, -1, encoder.width))
        close(visible, arrays[f"output/mask{j}/tokens"], FORWARD)
        total = total + (visible * torch.from_numpy(arrays[f"input/mask{j}/cotangent"])).sum()
    total.backward()
    theirs = our_weights({k.removeprefix("grad/"): v for k, v in arrays.items() if k.startswith("grad/param/")})
    assert len(theirs) == 8
    for name, parameter in encoder.named_parameters():
        if name in theirs:
            wanted = vjepa2.reordered(theirs[name], encoder.heads) if ".qkv." in name else theirs[name]
            close(parameter.grad, wanted.numpy(), GRADIENT)


def test_angles_are_places_over_periods():
    rotary = RotaryPositions(32, 0, POSITION)
    sin, cos = rotary.tables((4, 6, 7), "cpu")
    assert sin.shape == (4 * 6 * 7, 32)
    token = (2 * 6 + 5) * 7 + 3
    frequencies = 10000.0 ** (-torch.arange(5) / 5)  # 32 // (2 axes): 5 for each axis, one pair of 16 stays
    angles = torch.cat([place * frequencies for place in (2, 5, 3)] + [torch.zeros(1)]).tile(2)
    torch.testing.assert_close(sin[token], angles.sin())
    torch.testing.assert_close(cos[token], angles.cos())


def test_a_layer_of_a_clip_seen_in_part_has_the_visible_tokens_alone():
    encoder, clips, hidden = in_part()
    flat = hidden.flatten()
    rule = TokenMask(hidden, flat.nonzero()[:, 0], torch.ones(12), (~flat).nonzero()[:, 0], mode="drop")
    view = View(clips, "video", "global", 1, torch.arange(4), torch.zeros(4, 3, 4))
    batch = Batch({"global": view}, {("global", "short"): rule}, tuple("abcd"), torch.zeros(4), 0, 4)
    branch = EncoderBranch(encoder.eval(), {}, {})
    last, visible = (Request("student", "global", "visible", tap=tap, mask="short") for tap in (None, "block.1"))
    found = branch(batch, [last, visible])
    torch.testing.assert_close(encoder.trunk.norm(found[visible]), found[last])
    for token in ("masked", "patches"):
        with pytest.raises(UserError, match="mask rule 'short' leaves tokens out"):
            branch(batch, [Request("student", "global", token, tap="block.1", mask="short")])


def in_part(drop_path: float = 0.0) -> tuple[vit.Encoder, torch.Tensor, torch.Tensor]:
    """An encoder, clips, and a mask that hides 3 of 8 tokens of each, other ones in each."""
    torch.manual_seed(0)
    config = vit.Config(
        preset=None, width=24, depth=2, heads=2, size=(4, 8, 8), class_token=False, registers=1, position=POSITION,
        tokenizer=tokenizer.Config(tubelet=2, patch_size=4), drop_path=drop_path,
    )  # fmt: skip
    encoder = config.build()
    with torch.no_grad():
        encoder.trunk.blocks[0].attention.qkv.weight.mul_(20)  # so that places matter
    return encoder, torch.randn(4, 3, 4, 8, 8), torch.rand(4, 8).argsort(1) < 3


@torch.no_grad()
def test_rows_that_hide_different_tokens_keep_the_places_of_theirs():
    """Each row of a batch is what it is alone, its visible tokens turned by where they are in the clip."""
    encoder, clips, hidden = in_part()
    (together,) = encoder.eval()(inputs([clips], [hidden], drop=[3]))
    tokens, rotation = encoder.embed(clips, hidden)[0], encoder.positions((2, 2, 2), torch.device("cpu"))

    def turned(part, places):
        sin, cos = rotation.sin[places][:, None], rotation.cos[places][:, None]
        return part * cos + torch.cat((-part[..., 6:], part[..., :6]), -1) * sin

    for row in range(4):
        places = torch.cat((torch.zeros(1, dtype=torch.int64), (~hidden[row]).nonzero().flatten() + 1))
        x = tokens[row, places]
        for block in encoder.trunk.blocks:
            query, key, value = block.attention.project(block.attention_norm(x)).view(6, 3, 2, 12).unbind(1)
            scores = torch.einsum("qhd,khd->hqk", turned(query, places), turned(key, places)) * 12**-0.5
            x = x + block.attention.out(torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).flatten(1))
            x = x + block.ffn(block.ffn_norm(x))
        torch.testing.assert_close(together.patches[row, ~hidden[row]], encoder.trunk.norm(x)[1:])


@torch.no_grad()
def test_rows_kept_by_drop_path_keep_their_places():
    encoder, clips, hidden = in_part(drop_path=0.5)
    places = torch.rand(4, 9).argsort(1)[:, :6]
    (segment,) = encoder.segments([torch.zeros(4, 6, 24)], [(2, 2, 2)], [None], [places], None)
    picked = segment.select(torch.tensor([2, 0]))
    assert picked.rows == 2 and torch.equal(picked.rotation.sin, segment.rotation.sin[[2, 0]])
    (features,) = encoder.train()(inputs([clips], [hidden], drop=[3]))
    assert torch.isfinite(features.patches).all()
