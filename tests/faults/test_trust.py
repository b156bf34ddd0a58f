"""Names in files that someone else wrote: what they may run is nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from foundation import config, plugins
from foundation.checkpoints import checkpoint
from foundation.cli import main
from foundation.run import build
from foundation.run.recipe import Recipe
from foundation.schedules import Clock
from foundation.zoo.export import export_branches
from tests.faults.conftest import good

ROOT = Path(__file__).resolve().parents[2]
HARM = "from pathlib import Path\nPath({harm!r}).write_text('run')\n"


@pytest.fixture
def harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that appears when a module of the package ``evil`` is run; the package can be found by Python."""
    mark, package = tmp_path / "harm", tmp_path / "elsewhere" / "evil"
    package.mkdir(parents=True)
    for name in ("__init__", "enc", "views", "decode", "picture"):
        (package / f"{name}.py").write_text(HARM.format(harm=str(mark)))
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(plugins, "_allowed", set())
    yield mark
    for name in [name for name in sys.modules if name.split(".")[0] == "evil"]:
        del sys.modules[name]


@pytest.fixture
def a_run(tmp_path: Path, tiny_recipe: Callable[..., Recipe]) -> Callable[..., Path]:
    """``a_run("name", text -> text)``: a run folder with a checkpoint and exports, its recipe changed by someone."""

    def make(name: str = "run", change: Callable[[str], str] = lambda text: text) -> Path:
        recipe = tiny_recipe("data.shards=[nowhere.tar]")
        learner, folder = build.learner(recipe, Clock(10, 10)), tmp_path / name
        state = {"step": 7, "recipe": change(config.dump(recipe))}
        tensors = {name: branch.state_dict() for name, branch in learner.branches.items()}
        checkpoint.write(folder / "checkpoints", 7, tensors, state)
        export_branches(recipe, learner, folder / "export", 7)
        (folder / "recipe.yaml").write_text(change(config.dump(recipe)))
        return folder

    return make


def change_card(export: Path, **items: object) -> Path:
    """The card of an export with other items."""
    card = json.loads(export.with_suffix(".json").read_text())
    export.with_suffix(".json").write_text(json.dumps(card | items))
    return export


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """The error of a command that ends with exit code 2."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    return capsys.readouterr().err


@pytest.mark.fault(43, "a module's name where a part's name stands: in cards, checkpoints, run folders, indices")
def test_names_in_data_run_nothing(harm, a_run, shard, tmp_path, capsys, happened):
    other = a_run("other", lambda text: text.replace("name: vit", "name: evil.enc", 1))
    evil_card = {"encoder": {"name": "evil.enc"}}
    cases = [
        ("knn", change_card(a_run("a") / "export" / "teacher.safetensors", **evil_card), "--train", "x.tar"),
        ("linear", change_card(a_run("b") / "export" / "teacher.safetensors", modality="evil"), "--train", "x.tar"),
        ("svm", change_card(a_run("c") / "export" / "student.safetensors", modality="evil.enc"), "--train", "x.tar"),
        ("knn", other, "--train", "x.tar"),
        ("export", other),
        ("dense", other, tmp_path / "dense", "--shards", "x.tar"),
        ("pretrain", other),
        ("pretrain", other, "--dry-run"),
    ]
    tar = shard(indexed=True)
    index = json.loads((tar.parent / "index.json").read_text())
    (tar.parent / "index.json").write_text(json.dumps(index | {"about": {"card": {"modality": "evil.enc"}}}))
    cases += [("data", "verify", tar, "--decode", "--workers", "1"), ("data", "inspect", tar, "--sheet", "sheet.png")]
    for words in cases:
        said = refused(capsys, *words)
        assert "Traceback" not in said, said
        assert "--allow-plugins evil" in said or "called 'evil'" in said, (words, said)
    assert main(["report", str(other), "--out", str(tmp_path / "page.html")]) == 0
    assert "--allow-plugins evil.enc" in (tmp_path / "page.html").read_text()
    assert main(["runs", "show", str(other)]) == 0
    assert not harm.exists()
    happened("refused with file, line and the option that would allow it, exit 2; nothing ran")


def test_allow_plugins_lets_in_what_it_names_and_no_more(harm, a_run, capsys):
    other = a_run("other", lambda text: text.replace("name: vit", "name: evil.enc", 1))
    assert "--allow-plugins evil.enc" in refused(capsys, "pretrain", other, "--allow-plugins", "evil.views")
    assert not harm.exists()
    said = refused(capsys, "pretrain", other, "--allow-plugins", "evil")
    assert "no class 'Config'" in said and harm.exists()


def test_an_override_and_a_recipe_given_as_such_are_the_users_word(harm, a_run, tmp_path, capsys):
    folder = a_run()
    assert "no class 'Config'" in refused(capsys, "pretrain", folder, "--dry-run", "encoder.name=evil.enc")
    own = tmp_path / "own.yaml"
    own.write_text((folder / "recipe.yaml").read_text().replace("name: vit", "name: evil.decode", 1))
    assert "no class 'Config'" in refused(capsys, "pretrain", own, "--dry-run")
    assert harm.exists()


def test_nothing_is_imported_while_the_working_directory_is_on_the_path():
    """``python -m`` has loaded ``runpy`` and what it needs; with ``-S``, no installed package has loaded more."""
    code = (
        f"import sys, runpy; sys.path.insert(0, {str(ROOT)!r}); before = set(sys.modules); "
        "import foundation.search_path; print(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"foundation", "foundation.search_path", "foundation.version"}
    lines = (ROOT / "foundation" / "__main__.py").read_text().splitlines()
    assert (
        next(line for line in lines if "foundation." in line)
        == "from foundation.search_path import leave_working_directory"
    )


@pytest.mark.slow
@pytest.mark.fault(43, "statistics.py, socket.py and others beside the data, in the working directory")
def test_files_in_the_working_directory_are_not_modules(tiny_recipe_file, shard, tmp_path, happened):
    here, mark = tmp_path / "here", tmp_path / "harm"
    here.mkdir()
    for name in ("statistics", "socket", "tarfile", "signal", "json", "torch", "numpy"):
        (here / f"{name}.py").write_text(HARM.format(harm=str(mark)) + "raise SystemExit(99)\n")

    def foundation(*words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSAFEPATH")}
        command = [sys.executable, "-m", "foundation", *map(str, words)]
        environment = kept | {"OMP_NUM_THREADS": "1"} | variables
        return subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=120)

    tars = [shard(good(begin=begin), name=f"train-{begin:06d}") for begin in (0, 6)]
    verified = foundation("data", "verify", *tars, "--decode", "--workers", "2")
    assert verified.returncode == 0, verified.stderr
    trained = foundation("pretrain", tiny_recipe_file, "--processes", "2", "data.shards=[nowhere.tar]", PYTHONPATH=":")
    assert trained.returncode == 2 and "nowhere.tar" in trained.stderr, trained.stderr
    assert not mark.exists()
    assert foundation("--version", PYTHONPATH=".").returncode == 99 and mark.exists()  # the user's own word
    happened("none was run, by the command, its workers or its processes; PYTHONPATH=. is the user's word")


def test_a_run_with_a_module_of_ones_own_resumes_by_the_same_command(tiny_recipe_file, tmp_path, monkeypatch, capsys):
    package, run = tmp_path / "mine", tmp_path / "run"
    package.mkdir()
    (package / "spread.py").write_text(
        "from foundation.objectives import koleo\n\n\nclass Config(koleo.Config):\n    pass\n"
    )
    tiny_recipe_file.write_text(tiny_recipe_file.read_text().replace("{name: koleo,", "{name: mine.spread,"))
    monkeypatch.syspath_prepend(str(tmp_path))

    def pretrain(what: Path, stop: int, *words: str) -> str:
        monkeypatch.setattr(plugins, "_allowed", set())  # as in a process of its own
        capsys.readouterr()
        code = main(["pretrain", str(what), f"train.stop_after={stop} steps", "--run", str(run), *words])
        said = capsys.readouterr()
        assert code in (0, 2), said.err
        return said.out + said.err

    assert "step 2/" in pretrain(tiny_recipe_file, 2)
    assert "resuming from step-00000002" in pretrain(tiny_recipe_file, 4)
    assert "--allow-plugins mine.spread" in pretrain(run, 6)
    assert "resuming from step-00000004" in pretrain(run, 6, "--allow-plugins", "mine")
