"""Which sub-networks of timm's Swin and ResNet are drawn how often (golden 18), and a step of their elastic branch."""

from __future__ import annotations

import pytest
import torch

from foundation.branches.elastic import Config
from foundation.encoders.elastic import SubNetwork
from foundation.encoders.timm import Config as Timm
from foundation.errors import UserError

pytestmark = pytest.mark.usefixtures("timm_itself")


def test_swin_networks_are_those_of_the_released_code(golden):
    table = golden("18_poa_sampling")
    arg = {key.removeprefix("arg/swin/"): value.item() for key, value in table.items() if key.startswith("arg/swin/")}
    most, head = arg["max_embed_dim"], arg["head_dim"]
    heads = [(most << stage) // head for stage in range(4)]
    shape = {"embed_dim": most, "depths": [2, 2, arg["max_s3_depth"], 2], "num_heads": heads}
    with torch.device("meta"):
        encoder = Timm(model="swin_base_patch4_window7_224", arguments=shape).build()
    assert encoder.full_size == SubNetwork(most, (2, 2, arg["max_s3_depth"], 2))
    widths = tuple(range(arg["min_embed_dim"], most + 1, head * arg["width_interval"]))
    depths = tuple(range(arg["min_s3_depth"], arg["max_s3_depth"] + 1, arg["depth_interval"]))
    found = Config(widths=widths, depths=depths, scale=float(arg["net_select_scale"])).networks(encoder)
    for size in set(found):
        encoder.check_size(size)
    expected = [(int(width), int(depth)) for width, depth in table["output/swin/networks"]]
    assert [(size.width, size.depths[2]) for size in found] == expected[:-1], "the last one is the whole network"
    assert list(table["output/swin/widths"]) == list(widths)


def test_resnet_networks_are_those_of_the_released_code(golden):
    table = golden("18_poa_sampling")
    arg = {key.removeprefix("arg/resnet/"): value for key, value in table.items() if key.startswith("arg/resnet/")}
    low, high = (tuple(int(depth) for depth in arg[key]) for key in ("min_depths", "max_depths"))
    widths = tuple(int(row[0]) for row in table["output/resnet/width_candidates"])
    with torch.device("meta"):
        encoder = Timm(model="resnet50_gn", arguments={"layers": high, "base_width": widths[-1]}).build()
    assert encoder.full_size == SubNetwork(widths[-1], high)
    spans, scale = tuple(zip(low, high, strict=True)), float(arg["net_select_scale"])
    found = Config(widths=widths, stages=spans, scale=scale).networks(encoder)
    depths = [tuple(int(depth) for depth in row) for row in table["output/resnet/depth_candidates"]]
    pairs = table["output/resnet/networks_as_width_index_depth_index"]
    expected = [SubNetwork(widths[width], depths[depth]) for width, depth in pairs]
    assert found == expected[:-1] and expected[-1] == encoder.full_size
    for size in (found[0], found[-1], found[len(found) // 2]):
        encoder.check_size(size)
    norms = [layer for layer in encoder.modules() if isinstance(layer, torch.nn.GroupNorm)]
    assert {layer.num_groups for layer in norms} == {int(arg["num_gn_groups"])}


def test_stages_stand_in_place_of_depths():
    with pytest.raises(UserError, match="in place of depths"):
        Config(stages=((1, 2),), depths=(1, 2))
