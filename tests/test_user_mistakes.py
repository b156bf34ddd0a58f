"""Every mistake the documentation promises an answer to, made as a user makes it: on the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = """\
name: tiny
data: {{shards: ["{shards}"], workers: 0}}
views:
  name: image
  global_views: {{count: 2, size: 16, blur: [0.0]}}
  local_views: {{count: 0}}
masking: {{}}
encoder: {{name: vit, preset: null, width: 32, depth: 1, heads: 2, size: [16, 16],
  tokenizer: {{name: image, patch_size: 4}}}}
heads:
  cls: {{prototypes: 16, hidden: 16, bottleneck: 8}}
objectives:
  - {{name: dino, other_views: []}}
optimizer: {{learning_rate: 1e-3, freeze_last_layer: 0 steps}}
train: {{length: 2 steps, batch_size: 4, precision: float32, device: cpu}}
"""


def foundation(*words: str, prefix: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own; ``prefix`` is Python that runs before it."""
    program = f"{prefix}\nimport sys; from foundation.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 images in one shard."""
    import io

    import numpy as np
    from PIL import Image

    from foundation.data.shards import write_shards

    def png(place: int) -> bytes:
        buffer = io.BytesIO()
        pixels = np.random.default_rng(place).integers(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()

    out = tmp_path_factory.mktemp("data") / "shards"
    write_shards(({"__key__": f"s{i}", "png": png(i), "cls": b"0"} for i in range(12)), out, "train")
    return out


@pytest.fixture
def recipe(shards: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(shards=f"{shards}/train-*.tar"))
    return path


def refused(result: subprocess.CompletedProcess[str], *words: str, code: int = 2) -> None:
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_unknown_key_names_file_line_and_nearest_key(recipe, tmp_path):
    recipe.write_text(recipe.read_text().replace("learning_rate: 1e-3", "learning_rat: 1e-3"))
    result = foundation("pretrain", str(recipe), "--run", str(tmp_path / "run"))
    line = 1 + recipe.read_text().splitlines().index(
        next(x for x in recipe.read_text().splitlines() if "learning_rat" in x)
    )
    refused(result, f"tiny.yaml:{line}: unknown key 'optimizer.learning_rat'; did you mean 'learning_rate'?")
    assert not (tmp_path / "run").exists()


def test_wrong_type_says_what_was_found(recipe, tmp_path):
    result = foundation("pretrain", str(recipe), "train.batch_size=many", "--run", str(tmp_path / "run"))
    refused(result, "'train.batch_size' must be a whole number, found 'many'")


def test_missing_shards_show_the_pattern_and_what_is_there(recipe, shards, tmp_path):
    wrong = f"data.shards=['{shards}/tran-*.tar']"
    result = foundation("pretrain", str(recipe), wrong, "--run", str(tmp_path / "run"))
    refused(result, "tran-*.tar", "train-000000.tar")


@pytest.mark.slow
def test_resolution_that_does_not_fit_the_patches_names_both(recipe, tmp_path):
    size = "views.global_views={count: 2, size: 18, blur: [0.0]}"
    for words in (("--dry-run",), ("--run", str(tmp_path / "run"))):
        result = foundation("pretrain", str(recipe), size, *words)
        refused(result, "18", "patch", "4", "16", "20")


@pytest.mark.slow
def test_more_workers_than_shards_just_work(recipe, tmp_path):
    result = foundation("pretrain", str(recipe), "data.workers=3", "--run", str(tmp_path / "run"))
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_objective_that_needs_what_the_recipe_lacks(recipe):
    result = foundation("pretrain", str(recipe), "objectives=[{name: ibot, head: patch}]", "--dry-run")
    refused(result, "no head called 'patch'", "cls")
    result = foundation("pretrain", str(recipe), "objectives=[{name: dino}]", "--dry-run")
    refused(result, "needs the view 'local'", "global")
    result = foundation("pretrain", str(recipe), "objectives=[{name: ibot}]", "masking=null", "--dry-run")
    refused(result, "add a masking section")


def test_gpu_that_is_not_there(recipe, tmp_path):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    result = foundation("pretrain", str(recipe), "train.device=cuda", "--run", str(tmp_path / "run"))
    refused(result, "sees no GPU")


@pytest.mark.slow
def test_fresh_refuses_a_folder_that_holds_a_run_until_told(recipe, tmp_path):
    run = str(tmp_path / "run")
    assert foundation("pretrain", str(recipe), "--run", run).returncode == 0
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    refused(foundation("pretrain", str(recipe), "--run", run, "--fresh"), "already holds a run", "--overwrite")
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before
    result = foundation("pretrain", str(recipe), "--run", run, "--fresh", "--overwrite")
    assert result.returncode == 0 and "resuming" not in result.stdout


@pytest.mark.slow
@pytest.mark.fault(15, "resume with another seed and architecture")
def test_resume_with_another_recipe_is_refused_and_lists_the_differences(recipe, tmp_path, happened):
    run = str(tmp_path / "run")
    assert foundation("pretrain", str(recipe), "--run", run).returncode == 0
    result = foundation("pretrain", str(recipe), "seed=1", "encoder.depth=2", "--run", run)
    refused(result, "seed: 0 -> 1", "encoder.depth: 1 -> 2", "--accept-changes")
    free = foundation("pretrain", str(recipe), "train.log_every=1", "data.workers=1", "--run", run)
    assert free.returncode == 0, free.stderr
    happened("refused, exit 2, each setting with its old and new value; the number of workers may change")


@pytest.mark.slow
def test_run_folder_that_cannot_be_written(recipe, tmp_path):
    (tmp_path / "file").write_text("in the way")
    refused(
        foundation("pretrain", str(recipe), "--run", str(tmp_path / "file" / "run")), "cannot write to the run folder"
    )


BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torchvision", "timm"):
            raise RuntimeError("operator torchvision::nms does not exist")
sys.meta_path.insert(0, Block())
"""


@pytest.mark.slow
def test_everything_but_timm_runs_where_torchvision_and_timm_cannot_be_imported(recipe, shards, tmp_path):
    run, data = str(tmp_path / "run"), f"{shards}/train-*.tar"
    assert foundation("pretrain", str(recipe), "--run", run, prefix=BLOCK).returncode == 0
    knn = foundation("knn", run, "--train", data, "--test", data, "--k", "3", prefix=BLOCK)
    assert knn.returncode == 0, knn.stderr
    report = foundation("report", run, prefix=BLOCK)
    assert report.returncode == 0, report.stderr
    refused(foundation("knn", "timm:resnet18", "--train", data, "--test", data, prefix=BLOCK), "torch", "torchvision")


@pytest.mark.slow
def test_models_that_are_none(tmp_path, shards):
    data = f"{shards}/train-*.tar"
    refused(foundation("knn", str(tmp_path / "nothing"), "--train", data), "does not exist", "run folder")
    refused(foundation("knn", "timm:no_such_model", "--train", data), "no_such_model")


MISTAKEN = """\
branches:
  teacher: {name: ema}
  one: {name: ema, of: two}
  two: {name: ema, of: one}
  lost:
    name: previous
    of: studnet
    at: start
  early: {name: exit, block: 9}
  kept: {name: cached, extra: text, width: 3}
"""


@pytest.mark.slow
def test_parts_that_do_not_go_together_are_told_all_at_once_with_their_lines(recipe):
    text = recipe.read_text() + MISTAKEN
    objective = "  - {name: dino, other_views: []}\n"
    assert objective in text
    wrong = [
        "  - {name: dino, other_views: [], teacher: teecher}\n",
        "  - name: dino\n    other_views: []\n    head: clss\n",
        "  - {name: dino, other_views: [far]}\n",
    ]
    text = text.replace(objective, "".join([objective, *wrong]))
    recipe.write_text(text)
    number = {line.strip(): place for place, line in enumerate(text.splitlines(), 1)}

    def at(start: str) -> str:
        (line,) = [place for found, place in number.items() if found.startswith(start)]
        return f"{recipe}:{line}: "

    expected = {
        at("one: ") + "branches.one: branches follow each other in a circle: one -> two -> one",
        at("lost:") + "branches.lost: the branch 'studnet' is not there; did you mean 'student'?",
        at("early: ") + "branches.early.block is 9: branch 'student' has 1 to 1",
        at("kept: ") + "branches.kept.extra: data.extras has no 'text'; there are: none",
        at("- {name: dino, other_views: [], teacher") + "objectives.1: dino-2: there is no branch 'teecher'",
        at("- name: dino") + "objectives.2: dino-3: no head called 'clss'",
        at("- {name: dino, other_views: [far]}") + "objectives.3: objective 'dino-4' needs the view 'far'",
        at("- {name: dino, other_views: []}") + "objectives.0: dino: no mask rule called 'fog'",
        "override branches.more={name: ema, of: nobody}: branches.more: the branch 'nobody' is not there",
        "override measured=nobody: measured: no branch with an encoder is called 'nobody'",
    }
    overrides = ("measured=nobody", "objectives.0.mask=fog", "branches.more={name: ema, of: nobody}")
    for words in (["--dry-run"], ["--run", str(recipe.parent / "run")]):
        result = foundation("pretrain", str(recipe), *overrides, *words)
        assert result.returncode == 2, result.stderr
        head, *lines = result.stderr.splitlines()
        assert f"{len(expected)} problems in {recipe}" in head
        for start in expected:
            assert any(line.strip().startswith(start) for line in lines), f"{start}\nnot in\n{result.stderr}"
        assert len(lines) == len(expected), result.stderr
