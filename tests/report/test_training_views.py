"""The first step of a run as a person sees it: masks of any rule, and of the first stage."""

from __future__ import annotations

from foundation.report.views import training_views


def test_masks_of_a_rule_of_another_name_are_shown(tiny_recipe):
    rules = "masks={much: {view: global, probability: 1.0, ratio: [0.75, 0.75], kind: random}}"
    kinds = training_views(tiny_recipe("masking=null", rules), 2).kinds
    assert "(where masked: 75 % of the tokens)" in kinds[0] and "masked" not in kinds[1]


def test_of_a_run_in_stages_the_first_is_shown(tiny_recipe):
    stages = "stages=[{name: a, masking: null}, {name: b}]"
    assert all("masked" not in kind for kind in training_views(tiny_recipe(stages), 2).kinds)
    assert any("masked" in kind for kind in training_views(tiny_recipe(), 2).kinds)
