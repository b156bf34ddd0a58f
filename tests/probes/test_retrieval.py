"""Retrieval across views: against plain loops, during training, and by the command."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from foundation.cli import main
from foundation.data.shards import open_shards
from foundation.errors import RecipeError, UserError
from foundation.modalities.parts import decoder
from foundation.probes.retrieval import recalls
from foundation.report.nearest import KEY, draw_nearest
from foundation.report.picture_table import FRAMES


def test_recall_is_the_share_whose_own_counterpart_is_among_the_first():
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(40, 6, generator=generator)
    second = first + 1.5 * torch.randn(40, 6, generator=generator)
    labels = torch.arange(40) % 5
    found = recalls(3.0 * first, second, labels)
    cosine = F.normalize(first, dim=1) @ F.normalize(second, dim=1).T
    for ways, same, scores in ((found.forth, found.class_forth, cosine), (found.back, found.class_back, cosine.T)):
        orders = [sorted(range(40), key=lambda j: -row[j].item()) for row in scores]
        for k in (1, 5, 10):
            assert ways[k] == pytest.approx(sum(i in order[:k] for i, order in enumerate(orders)) / 40)
        assert same == pytest.approx(sum(labels[order[0]] == labels[i] for i, order in enumerate(orders)) / 40)
    assert 0 < found.forth[1] < found.forth[5] < found.forth[10] < 1


def test_embeddings_that_are_all_alike_find_nothing():
    same = torch.ones(30, 4)
    assert recalls(same, same).forth == {1: 0.0, 5: 0.0, 10: 0.0}
    assert recalls(torch.eye(4), torch.eye(4)).back == {1: 1.0}
    assert recalls(torch.eye(4), torch.eye(4), torch.full((4,), -1)).class_forth is None


def test_what_cannot_be_compared_is_refused():
    for first, second, text in (
        (torch.eye(3), torch.ones(3, 2), "of 3 and 2 numbers"),
        (torch.ones(1, 3), torch.ones(1, 3), "at least two are needed"),
        (torch.eye(3), torch.full((3, 3), torch.nan), "3 of 3 gallery features are not finite"),
    ):
        with pytest.raises(UserError, match=text):
            recalls(first, second)


PAIR = (
    "heads={e: {prototypes: null, hidden: 16, bottleneck: 8, layers: 2}}", "masking=null", "train.length=4 steps",
    "objectives=[{name: similarity_distillation, head: e, teacher_head: e, queue: 20}]",
)  # fmt: skip


@pytest.mark.slow
def test_the_job_and_the_command_agree_and_draw(tiny_recipe_file, tiny_shards, metrics, tmp_path, capsys):
    run, out, picture = tmp_path / "run", tmp_path / "r.json", tmp_path / "r.png"
    job = f"jobs=[{{name: retrieval, every: 2 steps, shards: ['{tiny_shards}']}}]"
    assert main(["pretrain", str(tiny_recipe_file), *PAIR, job, "--run", str(run)]) == 0
    lines = [line for line in metrics(run) if "retrieval/student_r5" in line]
    assert [line["step"] for line in lines] == [2, 4]
    assert main(["retrieval", str(run), tiny_shards, "--json", str(out), "--picture", str(picture)]) == 0
    captured, found = capsys.readouterr(), json.loads(out.read_text())
    said = captured.out
    assert "global by student and global by teacher see the same 'global' view of a sample" in captured.err
    assert "global by student -> global by teacher: R@1" in said and "40 pairs" in said
    for way, name in zip(found["ways"], ("student", "teacher"), strict=True):
        assert way["recall"] == {str(k): pytest.approx(lines[-1][f"retrieval/{name}_r{k}"]) for k in (1, 5, 10)}
    with Image.open(picture) as drawn:
        assert drawn.height > 4 * 64  # four classes
    assert main(["retrieval", str(run / "export"), tiny_shards]) == 2
    assert "is no run and no checkpoint" in capsys.readouterr().err


def test_a_picture_has_a_key_titles_and_names(tmp_path, tiny_shards):
    shards = open_shards([tiny_shards])
    ids, rows = torch.arange(8), torch.eye(8)
    decode = decoder("image")
    draw_nearest(tmp_path / "r.png", rows, rows, ids % 4, ids, ("image", "image"), shards, (decode, decode))
    with Image.open(tmp_path / "r.png") as drawn:
        colours = {colour for _, colour in drawn.convert("RGB").getcolors(1 << 20)}
        key = drawn.convert("RGB").crop((0, 0, drawn.width, 100))
    near = lambda wanted, there: any(sum(abs(a - b) for a, b in zip(wanted, c, strict=True)) < 24 for c in there)  # noqa: E731
    assert near(FRAMES["own"], colours)
    of_key = {colour for _, colour in key.getcolors(1 << 20)}
    assert all(near(FRAMES[kind], of_key) for kind, _ in KEY)


def test_a_recipe_that_compares_no_two_branches_is_refused_before_the_first_step(tiny_recipe, train, tmp_path):
    recipe = tiny_recipe("objectives=[{name: koleo}]", "jobs=[{name: retrieval, every: 2 steps, shards: [x]}]")
    with pytest.raises((RecipeError, UserError), match="no objective of this recipe compares"):
        train(recipe, tmp_path / "run")
