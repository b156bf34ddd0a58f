"""Sub-networks come out of runs, checkpoints and exports as encoders of their own, equal to what they were inside."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from foundation import config
from foundation.checkpoints.checkpoint import write
from foundation.cli import main
from foundation.encoders.elastic import Sliced, SubNetwork, size_named
from foundation.errors import UserError
from foundation.run import build
from foundation.run.recipe import Recipe
from foundation.schedules import Clock
from foundation.zoo.export import export_branches, export_of, write_export
from foundation.zoo.extract import Family, stopwatch_for, write_sizes
from foundation.zoo.latency import Stopwatch, Timing, misgivings
from foundation.zoo.load import load_encoder
from foundation.zoo.sections import sections

RECIPE = """
name: tiny
data: {shards: [nowhere.tar]}
views: {name: image, global_views: {count: 2, size: 16, blur: [0.0]}, local_views: {count: 0}}
encoder: {name: vit, preset: null, width: 32, depth: 4, heads: 4, size: [16, 16], registers: 2,
  tokenizer: {name: image, patch_size: 4, stem: conv}}
heads:
  cls: {prototypes: 16, hidden: 16, bottleneck: 8}
branches:
  teacher: {name: ema}
  elastic: {name: elastic, widths: [16, 24, 32], depths: [2, 4]}
objectives: [{name: dino, other_views: []}, {name: dino, other_views: [], student: elastic}]
optimizer: {learning_rate: 1e-3}
train: {length: 10 steps, batch_size: 4}
"""
SIZES = [SubNetwork(width, (depth,)) for width in (16, 24, 32) for depth in (2, 4)]


def make_run(folder: Path, text: str = RECIPE) -> Path:
    """A run folder with one checkpoint, its teacher another network than its student."""
    recipe = config.load(Recipe, text)
    learner = build.learner(recipe, Clock(10, 10))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in learner.branches["teacher"].state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    state = {"step": 7, "recipe": config.dump(recipe)}
    tensors = {name: branch.state_dict() for name, branch in learner.branches.items()}
    write(folder / "checkpoints", 7, tensors, state)
    export_branches(recipe, learner, folder / "export", 7)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("extract") / "run")


def view() -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("source", ["", "checkpoints/step-00000007", "export/teacher.safetensors"])
def test_what_is_written_is_what_runs_inside_the_large_one(run, source, tmp_path):
    loaded = load_encoder(run / source)
    size = SubNetwork(24, (2,))
    (path,) = write_sizes(loaded, [size], tmp_path, trained=SIZES)
    assert path.name == "tiny-teacher-w24-d2.safetensors"
    alone = load_encoder(path)
    with torch.no_grad():
        inside, outside = Sliced(loaded.encoder, size)([view()])[0], alone.encoder([view()])[0]
    assert torch.equal(inside.cls, outside.cls) and torch.equal(inside.patches, outside.patches)
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["sub_network"] == {"width": 24, "depths": [2], "of": loaded.sha256, "trained": True}
    assert card["parameters"] == sum(parameter.numel() for parameter in alone.encoder.parameters())
    assert alone.evaluation == loaded.evaluation and alone.recipe == loaded.recipe and card["step"] == 7


def test_a_sub_network_is_not_taken_for_the_export_that_a_run_is_measured_by(run, tmp_path):
    loaded = load_encoder(run)
    write_sizes(loaded, [SubNetwork(16, (2,))], tmp_path, trained=SIZES)
    assert export_of(tmp_path) is None and export_of(run / "export") == run / "export" / "teacher.safetensors"


def test_the_family_is_that_of_the_recipe_smallest_first(run):
    family = Family.of(load_encoder(run))
    assert family.trained == set(SIZES) == set(family.sizes) and not family.doubts(SIZES)
    assert list(family.parameters) == sorted(family.parameters) and family.sizes[-1] == SubNetwork(32, (4,))
    counts = dict(zip(family.sizes, family.parameters, strict=True))
    student = Family.of(load_encoder(run, branch="student"))
    assert dict(zip(student.sizes, student.parameters, strict=True)) == counts
    between = (counts[SubNetwork(24, (2,))] + min(n for n in counts.values() if n > counts[SubNetwork(24, (2,))])) // 2
    assert family.within(between) == SubNetwork(24, (2,)) and family.within(10**9) == SubNetwork(32, (4,))
    with pytest.raises(UserError, match=f"smallest, w16-d2, has {family.parameters[0]:,} and the largest, w32-d4"):
        family.within(family.parameters[0] - 1)


def test_latency_chooses_the_largest_that_is_fast_enough(run, monkeypatch):
    loaded = load_encoder(run)
    family, stopwatch = Family.of(loaded), stopwatch_for(loaded, torch.device("cpu"))
    assert stopwatch.shape == (3, 16, 16) and "one sample of 3 x 16 x 16, float32, cpu" in stopwatch.setting

    def counted(self, encoders, runs=1, told=None):  # a clock that goes by blocks, whatever else the machine does
        return [Timing(1e-3 * encoder.depth, 0.0, runs) for encoder in encoders]

    monkeypatch.setattr(Stopwatch, "timings", counted)
    chosen, times = family.as_fast_as(2e-3, stopwatch)
    assert chosen == SubNetwork(32, (2,)) and times[chosen].seconds == 2e-3 and set(times) == set(family.sizes)
    assert family.as_fast_as(9e-3, stopwatch)[0] == SubNetwork(32, (4,)) and not misgivings(times)
    with pytest.raises(UserError, match=r"no size takes 1 ms or less: the fastest, w.*, takes 2 ms"):
        family.as_fast_as(1e-3, stopwatch)


def test_a_stopwatch_lets_encoders_take_turns():
    order: list[str] = []

    class Slow(torch.nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, views):
            assert views[0].shape == (1, 3, 8, 8) and torch.is_inference_mode_enabled()
            order.append(self.name)
            if self.name == "slow":
                torch.randn(200, 200) @ torch.randn(200, 200)

    found = Stopwatch(torch.device("cpu"), (3, 8, 8)).timings([Slow("fast"), Slow("slow")], runs=9)
    assert order == ["fast", "slow", "slow", "fast"] * 6 and 0 < found[0].seconds < found[1].seconds
    assert [timing.runs for timing in found] == [9, 9] and min(timing.spread for timing in found) > 0


def test_times_that_cannot_be_are_doubted():
    small, large = SubNetwork(16, (2,)), SubNetwork(32, (4,))
    steady, slow, shaky = Timing(1e-3, 1e-5, 31), Timing(2e-3, 1e-5, 31), Timing(1e-3, 1e-3, 31)
    assert misgivings({small: steady, large: slow}) == []
    (said,) = misgivings({small: slow, large: steady})
    assert "w16-d2 took 2 times as long as w32-d4, which contains it" in said
    (said,) = misgivings({small: steady, large: shaky})
    assert "unsteady" in said and "of w32-d4 lie 100 % apart" in said


def test_an_encoder_that_no_elastic_branch_trained_has_half_its_width_and_depth_and_above(tmp_path):
    plain = RECIPE.replace("  elastic: {name: elastic, widths: [16, 24, 32], depths: [2, 4]}\n", "")
    plain = plain.replace(", {name: dino, other_views: [], student: elastic}", "")
    family = Family.of(load_encoder(make_run(tmp_path / "run", plain)))
    assert not family.trained
    assert set(family.sizes) == {SubNetwork(width, (depth,)) for width in (16, 24, 32) for depth in (2, 3, 4)}


def test_sizes_that_there_are_not_are_refused_with_those_that_there_are(run):
    encoder = load_encoder(run).encoder
    assert size_named(encoder, 16, None) == SubNetwork(16, (4,)) and size_named(encoder, None, [3]).width == 32
    with pytest.raises(UserError, match="widths 8, 16, 24, 32"):
        size_named(encoder, 20, [2])
    with pytest.raises(UserError, match="depths from 1 to 4"):
        size_named(encoder, 16, [5])


def said(capsys) -> str:
    found = capsys.readouterr()
    return found.out + found.err


def test_the_command_writes_one_or_all_and_nothing_twice(run, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["zoo", "extract", str(run), "--width", "16", "--depth", "2", "--out", out]) == 0
    assert main(["zoo", "extract", str(run), "--width", "16", "--depth", "2", "--out", out]) == 2
    assert "exists: choose another folder by --out, or add --overwrite" in said(capsys)
    assert main(["zoo", "extract", str(run), "--all", "--out", out]) == 2
    assert len(list((tmp_path / "out").iterdir())) == 2, "nothing is written where something is in the way"
    assert main(["zoo", "extract", str(run), "--all", "--out", out, "--overwrite"]) == 0
    assert {path.stem for path in (tmp_path / "out").glob("*.safetensors")} == {f"tiny-teacher-{s}" for s in SIZES}
    assert main(["zoo", "extract", str(run), "--params", "20k", "--out", out, "--overwrite"]) == 0
    assert "the largest of at most 20,000" in said(capsys)
    assert main(["zoo", "extract", str(run), "--width", "8", "--out", out]) == 0
    assert "w8-d4 is none of the 6 sizes that the recipe trained" in said(capsys)
    assert not part(tmp_path / "out" / "tiny-teacher-w8-d4.json")["trained"]
    assert part(tmp_path / "out" / "tiny-teacher-w24-d4.json")["trained"]


def part(card: Path) -> dict[str, Any]:
    return json.loads(card.read_text())["sub_network"]


def test_an_elastic_branch_that_no_objective_trains_has_trained_nothing(run, tmp_path, capsys):
    card = json.loads((run / "export" / "teacher.json").read_text())
    silent = card["recipe"].replace("student: elastic", "student: student")
    run, out = change_card(run, tmp_path / "silent", recipe=silent), str(tmp_path / "out")
    assert main(["zoo", "extract", str(run), "--width", "16", "--depth", "2", "--out", out]) == 0
    assert "its recipe trained no sub-networks" in said(capsys)
    assert not part(tmp_path / "out" / "tiny-teacher-w16-d2.json")["trained"]
    assert main(["zoo", "extract", str(run), "--all", "--out", out]) == 2
    assert "--all writes the sizes that an elastic branch of the recipe trained" in said(capsys)


def test_what_was_cut_out_is_cut_again_into_the_sizes_of_the_recipe_that_it_contains(run, tmp_path):
    (path,) = write_sizes(load_encoder(run), [SubNetwork(24, (4,))], tmp_path, trained=SIZES)
    again = load_encoder(path)
    family = Family.of(again)
    assert set(family.sizes) == family.trained == {SubNetwork(w, (d,)) for w in (16, 24) for d in (2, 4)}
    with torch.no_grad():
        twice = Sliced(again.encoder, SubNetwork(16, (2,)))([view()])[0].cls
        once = Sliced(load_encoder(run).encoder, SubNetwork(16, (2,)))([view()])[0].cls
    torch.testing.assert_close(twice, once)
    (third,) = write_sizes(load_encoder(run), [SubNetwork(32, (3,))], tmp_path, trained=SIZES)
    assert SubNetwork(32, (3,)) not in Family.of(load_encoder(third)).trained


@pytest.mark.parametrize("name", ["", "..", "../../mine", "{there}/mine", "a\\b", "a\x1b[2Jb", "a\nb", "n" * 300])
def test_a_name_in_a_card_never_becomes_a_path(run, name, tmp_path, capsys):
    export = change_card(run, tmp_path / "a" / "b", name=name.replace("{there}", str(tmp_path)))
    out = tmp_path / "out" / "deep"
    assert main(["zoo", "extract", str(export), "--width", "16", "--depth", "2", "--out", str(out)]) == 2
    assert "cannot be the name of a file" in said(capsys) and not (tmp_path / "out").exists()


def test_a_branch_that_a_checkpoint_names_never_becomes_a_path(run, tmp_path, capsys):
    recipe, folder = (run / "checkpoints" / "step-00000007"), tmp_path / "run"
    text = json.loads((recipe / "state.json").read_text())["recipe"]
    weights = {"../x.branch.encoder.weight": torch.zeros(2)}
    write(folder / "checkpoints", 1, {"teachers": weights}, {"step": 1, "recipe": text, "exports": ["../x"]})
    assert main(["export", str(folder)]) == 2
    assert "name '../x' cannot be the name of a file" in said(capsys) and not list(folder.glob("*.safetensors"))


def change_card(run: Path, folder: Path, **items: Any) -> Path:
    """A copy of the run's export whose card says something else."""
    folder.mkdir(parents=True)
    for ending in ("safetensors", "json"):
        shutil.copy(run / "export" / f"teacher.{ending}", folder)
    card = json.loads((folder / "teacher.json").read_text())
    (folder / "teacher.json").write_text(json.dumps(card | items))
    return folder / "teacher.safetensors"


@pytest.mark.parametrize(
    ("items", "wrong"),
    [
        ({"stage": -1}, "stage is -1, but the recipe has stage 0 alone"),
        ({"stage": 3}, "stage is 3, but the recipe has stage 0 alone"),
        ({"recipe": "name: x\nbranches: [1, 2]"}, "branches of the recipe must map names to settings"),
        ({"recipe": "name: x\nbranches: {a: 1}"}, "branches of the recipe must map names to settings"),
        ({"recipe": "name: x\nstages: 7"}, "stages of the recipe must be a list of mappings"),
    ],
)
def test_a_card_whose_recipe_cannot_be_is_refused_with_its_name(run, items, wrong, tmp_path, capsys):
    export = change_card(run, tmp_path / "card", **items)
    assert main(["zoo", "extract", str(export), "--all", "--out", str(tmp_path / "out")]) == 2
    found = said(capsys)
    assert wrong in found and "teacher.safetensors" in found


@pytest.mark.parametrize("verb", [("zoo", "extract", "--width", "16"), ("export",)])
def test_a_folder_that_cannot_be_made_is_refused(run, verb, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "below"):
        assert main([*verb, str(run), "--out", str(out)]) == 2
        assert f"cannot write into {out}" in said(capsys) and file.read_text() == "mine"


def test_parameters_in_a_card_are_parameters_alone(tmp_path):
    pytest.importorskip("timm")
    encoder = "{name: timm, model: resnet50, size: [32, 32], arguments: {layers: [1, 1, 1, 1], channels: [8, 8, 8, 8]}}"
    recipe = sections(f"name: tiny\nviews: {{name: image}}\nencoder: {encoder}", "recipe")
    network = recipe.encoder.build()
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count < sum(tensor.numel() for tensor in network.state_dict().values())
    path = write_export(tmp_path / "a.safetensors", network.state_dict(), recipe, "student", 1, text="")
    loaded = load_encoder(path)
    (part,) = write_sizes(loaded, [loaded.encoder.full_size], tmp_path, trained=())
    for one in (path, part):
        assert json.loads(one.with_suffix(".json").read_text())["parameters"] == count
    assert Family.of(loaded).parameters[-1] == count


@pytest.mark.slow
def test_an_extracted_encoder_is_scored_in_a_fresh_process_without_its_run(tmp_path, tiny_shards):
    run = make_run(tmp_path / "run")
    loaded = load_encoder(run)
    (path,) = write_sizes(loaded, [SubNetwork(16, (2,))], tmp_path / "elsewhere", trained=SIZES)
    with torch.no_grad():
        expected = Sliced(loaded.encoder, SubNetwork(16, (2,)))([view()])[0].cls
    for file in sorted(run.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    words = ["knn", str(path), "--train", tiny_shards, "--test", tiny_shards, "--workers", "0", "--k", "3"]
    subprocess.run([sys.executable, "-m", "foundation", *words], check=True, capture_output=True, timeout=120)
    assert list((path.parent / "probes").glob("knn-*.json"))
    with torch.no_grad():
        assert torch.equal(load_encoder(path).encoder([view()])[0].cls, expected)
