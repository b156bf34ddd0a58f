"""Blocks of a network: what is gathered, computed anew and compiled as one piece."""

from __future__ import annotations

from foundation.encoders import timm, vit
from foundation.heads import prototypes
from foundation.parallel.units import innermost, unit_lists, units


def test_the_blocks_of_a_transformer_in_their_order():
    encoder = vit.Config(preset=None, width=32, depth=3, heads=2, size=(16, 16)).build()
    assert unit_lists(encoder) == [[*encoder.trunk.blocks]]
    assert units(encoder) == innermost(encoder) == [*encoder.trunk.blocks]


def test_blocks_inside_stages_come_before_their_stage():
    encoder = timm.Config(model="swin_s3_tiny_224", arguments={"depths": [2, 2, 2, 2]}).build()
    every = units(encoder)
    stages = [*encoder.model.layers]
    for stage in stages:
        assert all(every.index(block) < every.index(stage) for block in stage.blocks)
    assert not set(innermost(encoder)) & set(stages)
    assert {block for stage in stages for block in stage.blocks} <= set(innermost(encoder))


def test_a_perceptron_has_no_blocks():
    assert units(prototypes.Config(prototypes=8, hidden=16, bottleneck=4).build(8)) == []
