"""Image weights as the start of a video encoder."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from foundation.encoders import vit
from foundation.encoders.positions import PositionConfig
from foundation.errors import UserError
from foundation.modalities.image.tokenizer import Config as ImageTokenizer
from foundation.modalities.video.inflate import inflate
from foundation.modalities.video.tokenizer import Config as VideoTokenizer

IMAGE = vit.Config(
    preset=None, width=32, depth=2, heads=2, size=(16, 16), registers=1, tokenizer=ImageTokenizer(patch_size=4)
)


def video(**changes) -> vit.Config:
    return replace(IMAGE, **({"size": (6, 16, 16), "tokenizer": VideoTokenizer(tubelet=2, patch_size=4)} | changes))


@pytest.mark.parametrize("how", ["average", "centre"])
@pytest.mark.parametrize("factorised", [False, True])
def test_a_still_clip_has_the_tokens_of_its_picture(how, factorised):
    torch.manual_seed(0)
    image = IMAGE.build().eval()
    torch.nn.init.normal_(image.positions.table)
    encoder = video(position=PositionConfig(factorised=factorised)).build().eval()
    assert inflate(encoder, image, how) is encoder
    picture = torch.randn(3, 3, 16, 16)
    tokens, _, _ = image.embed(picture)
    clip, _, _ = encoder.embed(picture[:, :, None].expand(-1, -1, 6, -1, -1))
    prefix = 2
    torch.testing.assert_close(clip[:, :prefix], tokens[:, :prefix])
    moments = clip[:, prefix:].unflatten(1, (3, 16))
    for moment in moments.unbind(1):
        torch.testing.assert_close(moment, tokens[:, prefix:])


def test_one_frame_is_the_picture_to_the_end():
    torch.manual_seed(0)
    image = IMAGE.build().eval()
    encoder = inflate(video(size=(1, 16, 16), tokenizer=VideoTokenizer(tubelet=1, patch_size=4)).build(), image).eval()
    picture = torch.randn(2, 3, 16, 16)
    (expected,), (found,) = image([picture]), encoder([picture[:, :, None]])
    torch.testing.assert_close(found.cls, expected.cls)
    torch.testing.assert_close(found.patches, expected.patches)


def test_the_conv_stem_is_taken_over():
    torch.manual_seed(0)
    small = replace(IMAGE, tokenizer=ImageTokenizer(patch_size=4, stem="conv")).build().eval()
    encoder = video(tokenizer=VideoTokenizer(tubelet=2, patch_size=4, stem="conv"), position=PositionConfig()).build()
    inflate(encoder, small)
    picture = torch.randn(2, 3, 16, 16)
    tokens, _, _ = small.tokenizer(picture)
    clip, _, _ = encoder.eval().tokenizer(picture[:, :, None].expand(-1, -1, 2, -1, -1))
    torch.testing.assert_close(clip, tokens)


def test_positions_are_resized_to_another_grid():
    image = IMAGE.build()
    encoder = inflate(video(size=(4, 8, 24)).build(), image)
    _, places = image.positions((2, 6))
    _, clip = encoder.positions((2, 2, 6))
    torch.testing.assert_close(clip.unflatten(1, (2, 12))[:, 0], places)


def test_rotary_encoders_have_no_table_to_inflate():
    rotary = PositionConfig(kind="rotary")
    image = replace(IMAGE, position=rotary).build()
    encoder = inflate(video(position=rotary).build(), image.state_dict())
    torch.testing.assert_close(encoder.trunk.blocks[1].ffn.state_dict(), image.trunk.blocks[1].ffn.state_dict())


def test_weights_that_do_not_fit_are_named():
    image = IMAGE.build()
    with pytest.raises(UserError, match=r"cls_token: \[1, 1, 32\] in the image weights, \[1, 1, 64\] in the video"):
        inflate(video(width=64).build(), image)
    with pytest.raises(UserError, match=r"trunk.blocks.2.*not in the image weights"):
        inflate(video(depth=3).build(), image)
    with pytest.raises(UserError, match="an encoder of videos and the weights of an image encoder"):
        inflate(image, image)
    with pytest.raises(UserError, match="choose average or centre"):
        inflate(video().build(), image, "middle")  # type: ignore[arg-type]
    before = video().build()
    state = {name: value.clone() for name, value in before.state_dict().items()}
    with pytest.raises(UserError):
        inflate(before, replace(IMAGE, registers=0).build())
    assert all((before.state_dict()[name] == value).all() for name, value in state.items())
