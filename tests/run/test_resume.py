"""What a run goes on from: never from what --fresh was to leave, never from another recipe, data or folder unseen."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from foundation.checkpoints import checkpoint
from foundation.cli import main
from foundation.data.adopt import index_shards
from foundation.errors import RequeueRequest, UserError
from foundation.run import last_writes, watchdog
from foundation.run.run_folder import RunFolder
from foundation.run.trainer import Trainer
from foundation.run.watchdog import Watchdog
from tests.conftest import RECIPE, image_bytes


@pytest.fixture
def pretrain(tiny_recipe_file: Path, tmp_path: Path, capfd) -> Callable[..., tuple[int, str, str]]:
    """``pretrain("--fresh")``: the command in this process; exit code, what it printed, what it complained of."""

    def run(*words: str, recipe: Path = tiny_recipe_file) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(["pretrain", str(recipe), "--run", str(tmp_path / "run"), *words])
        return code, *capfd.readouterr()

    return run


@pytest.mark.fault(15, "`--fresh --overwrite` where checkpoints is a link to another disk")
def test_fresh_goes_on_from_nothing_also_through_links(pretrain, tmp_path, happened):
    run, elsewhere = tmp_path / "run", tmp_path / "big disk"
    assert pretrain("train.stop_after=3 steps")[0] == 0
    shutil.move(run / "checkpoints", elsewhere)
    (run / "checkpoints").symlink_to(elsewhere)
    (run / "export" / "gone").symlink_to(tmp_path)
    before = sorted(path.name for path in elsewhere.iterdir())
    code, out, err = pretrain("train.stop_after=2 steps", "--fresh", "--overwrite")
    assert code == 0 and "resuming" not in out and "step 1/2" in out, err
    assert "checkpoints was a link to" in err and f"{elsewhere} is left alone" in err
    assert sorted(path.name for path in elsewhere.iterdir()) == before
    assert not (run / "checkpoints").is_symlink() and checkpoint.newest(run / "checkpoints")[0].name == "step-00000002"
    assert (tmp_path / "tiny.yaml").is_file(), "what a link within the run leads to is left alone, too"
    happened("starts from step 0; the link is removed and said, what it leads to is left as it was")


def test_fresh_refuses_what_it_cannot_clear(pretrain, tmp_path, monkeypatch):
    assert pretrain("train.stop_after=1 steps")[0] == 0

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    code, out, err = pretrain("train.stop_after=1 steps", "--fresh", "--overwrite")
    assert code == 2 and "cannot remove" in err and "step 1/1" not in out


def test_a_link_that_leads_nowhere_is_a_run_that_was_there(tmp_path):
    (tmp_path / "checkpoints").symlink_to(tmp_path / "not mounted")
    assert RunFolder(tmp_path).used(), "--fresh without --overwrite must refuse it"


@pytest.mark.fault(15, "recipe.yaml of the run is lost, or edited, and the learning rate is another one")
def test_a_resume_compares_the_recipe_inside_the_checkpoint(pretrain, tmp_path, happened):
    run = tmp_path / "run"
    assert pretrain("train.stop_after=3 steps")[0] == 0
    kept = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").unlink()
    code, out, err = pretrain("optimizer.learning_rate=5e-3")
    assert code == 2 and "another recipe" in err and "optimizer.learning_rate: 0.001 -> 0.005" in err
    assert "step 4" not in out and not (run / "recipe.yaml").exists()
    (run / "recipe.yaml").write_text(kept.replace("weight_decay: ", "weight_decay: 0.5 #"))
    code, _, err = pretrain(recipe=run)  # the run's own recipe: it agrees with itself
    assert code == 2 and "optimizer.weight_decay" in err
    (run / "recipe.yaml").unlink()
    code, out, err = pretrain("checkpoints.keep_last=3", "train.stop_after=4 steps")
    assert code == 0 and "resuming from step-00000003" in out, err
    happened("refused with the keys that differ; settings that do not change what is learnt may")


@pytest.mark.fault(15, "recipe.yaml of the run is damaged: no UTF-8")
def test_a_recipe_of_the_run_that_is_no_text_is_told_in_one_line(pretrain, tmp_path, happened):
    run = tmp_path / "run"
    assert pretrain("train.stop_after=1 steps")[0] == 0
    (run / "recipe.yaml").write_bytes(b"\xff\xfe\x00name")
    for recipe in (tmp_path / "tiny.yaml", run):
        code, out, err = pretrain("train.stop_after=2 steps", recipe=recipe)
        assert code == 2 and f"cannot read {run / 'recipe.yaml'}" in err and "step 2" not in out, err
    code, out, err = pretrain("train.stop_after=2 steps", "--accept-changes")
    assert code == 0 and "resuming from step-00000001" in out, err
    happened("refused, exit 2, with the file; --accept-changes goes on and writes it anew")


def folder_of_shards(folder: Path, first: int, index: bool) -> str:
    from foundation.data.shards import write_shards

    shutil.rmtree(folder, ignore_errors=True)
    samples = ({"__key__": f"s{i:03d}", "png": image_bytes(i + first), "cls": b"1"} for i in range(16))
    write_shards(samples, folder, "train", samples_per_shard=8)
    (folder / "index.json").unlink(missing_ok=True)
    if index:
        index_shards([str(folder)])
    return str(folder / "train-*.tar")


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.fault(15, "the shards are replaced by others of the same names and counts")
def test_replaced_shards_are_refused(tiny_recipe, train, tmp_path, happened, index):
    shards = folder_of_shards(tmp_path / "data", 0, index)
    train(tiny_recipe("train.stop_after=1 steps", shards=shards), tmp_path / "run")
    shutil.move(tmp_path / "data", tmp_path / "moved")
    moved = str(tmp_path / "moved" / "train-*.tar")
    with RunFolder(tmp_path / "run") as folder:
        assert Trainer(tiny_recipe(shards=moved), folder, say=lambda _: None).progress.step == 1, "may lie elsewhere"
        folder_of_shards(tmp_path / "data", 100, index)
        with pytest.raises(UserError, match="content of the shards") as caught:
            Trainer(tiny_recipe(shards=shards), folder, say=lambda _: None)
    assert ("SHA-256 of the index" if index else "no index") in str(caught.value)
    happened("refused: the content of the shards, by the SHA-256 of their index, else by headers and some samples")


def test_a_checkpoint_of_an_older_version_goes_on_with_a_word(tiny_recipe, train, tmp_path):
    train(tiny_recipe("train.stop_after=1 steps"), tmp_path / "run")
    folder = checkpoint.newest(tmp_path / "run" / "checkpoints")[0]
    tensors, numbers = checkpoint.read(folder)
    assert numbers["computed"]["precision"] == "float32" and numbers["computed"]["device"] == "cpu"
    numbers["data"] = {key: value for key, value in numbers["data"].items() if "content" not in key}
    del numbers["computed"]
    checkpoint.remove(folder)
    checkpoint.write(folder.parent, 1, tensors, numbers)
    said: list[str] = []
    with RunFolder(tmp_path / "run") as opened:
        assert Trainer(tiny_recipe(), opened, say=said.append).progress.step == 1
    assert sum("their content could not be compared" in line for line in said) == 1
    assert said[-1].startswith("resuming from")


@pytest.mark.fault(15, "`precision: auto` goes on on another processor")
def test_what_auto_resolved_to_is_kept_and_a_change_is_said(tiny_recipe, train, tmp_path, happened):
    run, said = tmp_path / "run", []
    train(tiny_recipe("train.precision=auto", "train.device=auto", "train.stop_after=1 steps"), run)
    card = json.loads((run / "export" / "student.json").read_text())
    folder = checkpoint.newest(run / "checkpoints")[0]
    tensors, numbers = checkpoint.read(folder)
    assert card["computed"] == numbers["computed"] and set(card["computed"]) == {"device", "processor", "precision"}
    assert card["computed"]["precision"] in ("float32", "bfloat16") and card["computed"]["processor"]
    checkpoint.remove(folder)
    checkpoint.write(folder.parent, 1, tensors, numbers | {"computed": card["computed"] | {"precision": "float16"}})
    train(tiny_recipe("train.precision=auto", "train.device=auto", "train.stop_after=2 steps"), run, said)
    assert sum("the run goes on elsewhere: float16 on" in line for line in said) == 1
    happened("says in one line what it was and is, and goes on; checkpoint and card name device, model and precision")


@pytest.fixture
def at_step_4(monkeypatch) -> Callable[[Callable[[], object]], None]:
    """``at_step_4(action)``: done in a real run of this process when its fourth step has been made."""

    def plan(action: Callable[[], object]) -> None:
        beat, write, looks = Watchdog.beat, Watchdog._write, itertools.count()
        looked = 0

        def look(dog):
            nonlocal looked
            write(dog)
            looked = next(looks)

        def beat_and_act(dog, step, **figures):
            beat(dog, step, **figures)
            if step == 4:
                action()
                seen, deadline = looked, time.monotonic() + 60
                # Steps take milliseconds here: the watchdog shall look, from beginning to end, before the next one.
                while looked < seen + 2 and time.monotonic() < deadline:
                    time.sleep(0.01)

        monkeypatch.setattr(Watchdog, "beat", beat_and_act)
        monkeypatch.setattr(Watchdog, "_write", look)

    monkeypatch.setattr(last_writes, "LAST_SECONDS", 1.0)
    monkeypatch.setattr(watchdog, "_WRITE_EVERY", 0.05)
    return plan


def test_an_export_that_cannot_be_written_is_named_with_a_command_that_can_be_copied(
    tiny_recipe, train, tmp_path, at_step_4
):
    run = tmp_path / "my run"
    at_step_4(lambda: (run / "export").write_text("in the way"))
    with pytest.raises(RequeueRequest, match="step 8 is saved, but the export cannot be written") as told:
        train(tiny_recipe(), run)
    assert str(told.value).endswith(f": foundation export '{run}'")


@pytest.mark.fault(11, "the run folder is renamed while the run is going on, and another one made under its name")
def test_a_run_goes_on_in_its_folder_when_that_is_renamed(
    tiny_recipe, train, metrics, tmp_path, at_step_4, capfd, happened
):
    run, archive = tmp_path / "run", tmp_path / "archive"

    def rename():
        deadline = time.monotonic() + 60
        while not (found := checkpoint.steps(run / "checkpoints")) or checkpoint.step_of(found[-1]) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)  # a save that is under way makes its folder again under the old name
        os.rename(run, archive)
        run.mkdir()

    at_step_4(rename)
    train(tiny_recipe(), run)
    assert not list(run.iterdir()), "a folder that is not the run's is left alone"
    assert [path.name for path in checkpoint.steps(archive / "checkpoints")] == ["step-00000006", "step-00000008"]
    assert [line["step"] for line in metrics(archive)] == list(range(1, 9))
    assert json.loads((archive / "status.json").read_text())["state"] == "done"
    assert (archive / "export" / "teacher.safetensors").is_file()
    assert f"{run} was moved to {archive} while the run was going on: it goes on there" in capfd.readouterr().err
    happened("said; everything is written into the run's own folder under its new name, nothing into the other one")


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.fault(11, "the run folder is removed while the run is going on")
def test_a_run_whose_folder_is_removed_saves_its_state_anew(
    tiny_recipe, train, tmp_path, at_step_4, capfd, happened, foreign
):
    run = tmp_path / "run"

    def remove():
        while run.exists():  # a heartbeat may be written between the look into a folder and its removal
            shutil.rmtree(run, ignore_errors=True)
        if foreign:
            run.mkdir()

    at_step_4(remove)
    train(tiny_recipe("checkpoints.every=100 steps"), run)
    place = tmp_path / "run.continued-1" if foreign else run
    assert [path.name for path in checkpoint.steps(place / "checkpoints")] == ["step-00000005", "step-00000008"]
    assert json.loads((place / "status.json").read_text())["state"] == "done" and (place / "recipe.yaml").is_file()
    assert not foreign or not list(run.iterdir())
    assert f"the run goes on in {place}" in capfd.readouterr().err
    happened("said; the state is saved at the next step into a new folder, never into a foreign one")


def test_the_recipe_of_a_checkpoint_is_compared_before_any_part_of_it_is_imported(tiny_recipe, tmp_path, monkeypatch):
    from foundation.run.resume import changes_in_recipe

    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'run by a checkpoint')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    recipe = tiny_recipe()
    from foundation import config

    lines = changes_in_recipe(config.dump(recipe).replace("name: vit", "name: evil"), recipe)
    assert lines == ["encoder.name: 'evil' -> 'vit'"] and not (tmp_path / "run by a checkpoint").exists()
    assert changes_in_recipe(RECIPE.format(shards="elsewhere.tar"), recipe) == []


def test_a_run_of_an_earlier_version_is_refused_with_a_clear_word(tiny_recipe_file, tmp_path, capsys):
    words = ["pretrain", str(tiny_recipe_file), "--run", str(tmp_path / "run"), "train.length=1 steps"]
    assert main(words) == 0
    recipe = tmp_path / "run" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("\nbranches:", "\nteachers:"))
    assert main(["pretrain", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "is a run of an earlier version" in said and "foundation export" in said
    assert main([*words[:-1], "train.length=2 steps"]) == 2
    assert "it was begun by an earlier version" in capsys.readouterr().err


def test_changes_that_did_not_get_to_a_save_leave_the_run_as_it_was(pretrain, tmp_path, monkeypatch):
    """The recipe of a run that goes on is kept at its first save: what broke before that was never the run's."""
    assert pretrain("train.length=3 steps")[0] == 0
    written = tmp_path / "run" / "recipe.yaml"
    before = written.read_text()
    changes = ("train.length=6 steps", "optimizer.eps=1e-7", "--accept-changes")
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Trainer, "_step", lambda self: 1 // 0)
        pretrain(*changes)
    assert written.read_text() == before
    assert pretrain(*changes)[0] == 0
    assert "eps: 1.0e-07" in written.read_text()
